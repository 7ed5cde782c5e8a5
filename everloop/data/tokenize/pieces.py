"""Reversible tokenization of sentences into words or subwords: decoding gives the spaces back."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from everloop.data.files import write_atomically
from everloop.data.tokenize.lexicon import KnownWord, Lexicon
from everloop.data.tokenize.subwords import learn_merges, letters, merge
from everloop.data.tokenize.vocabulary_file import read_json
from everloop.errors import DataError, OptionError

SPACE = "▁"
SPECIAL = ("<pad>", "<unknown>", "<begin>", "<end>")
PAD, UNKNOWN, BEGIN, END = range(4)
FORMAT = "everloop-pieces-1"
CACHE_SIZE = 1_000_000  # different words whose numbers are cached
_PIECE = re.compile(r"\w+|[^\w\s]")


class Pieces:
    """The pieces a model reads or writes: words and signs, or byte-pair subwords of them.

    A piece that follows a space begins with "▁", so that joining the pieces gives the sentence back (runs of spaces
    become one). Numbers 0 to 3 are padding, unknown, begin and end.

    Args:
        symbols: the pieces without the four special ones.
        merges: the pairs that byte-pair encoding joins, in order; none: a piece is a whole word or sign.
        words: the words and signs they were learned from, where pieces are parts of them.
        lower: whether sentences are written in lower case first.
    """

    units = "words"

    def __init__(
        self,
        symbols: Iterable[str],
        merges: Iterable[Sequence[str]] = (),
        words: Iterable[str] = (),
        *,
        lower: bool = True,
    ) -> None:
        self.symbols = (*SPECIAL, *symbols)
        self.merges = [(str(left), str(right)) for left, right in merges]
        self.words, self.lower = tuple(words), lower
        self.numbers = {symbol: number for number, symbol in enumerate(self.symbols)}
        if len(self.numbers) != len(self.symbols):
            raise DataError("a vocabulary of pieces has a symbol twice")
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._known: dict[str, tuple[int, ...]] = {}

    @classmethod
    def learn(cls, sentences: Iterable[str], *, min_freq: int = 2, merges: int = 0, lower: bool = True) -> Pieces:
        """Return the pieces of some sentences.

        Args:
            sentences: the training sentences.
            min_freq: how often a piece must occur to have a number of its own.
            merges: how many pairs to join (Sennrich, Haddow and Birch, "Neural machine translation of rare words
                with subword units", ACL 2016); 0 keeps words whole.
            lower: whether to write in lower case first.
        """
        if min_freq < 1 or merges < 0:
            raise OptionError(f"min_freq is {min_freq} and merges is {merges}; expected at least 1 and at least 0")
        words = Counter(word for sentence in sentences for word in split(sentence, lower))
        if not words:
            raise DataError("there are no words to learn a vocabulary from")
        counts, learned = words, list[tuple[str, str]]()
        if merges:
            learned = learn_merges(words, merges)
            ranks = {pair: rank for rank, pair in enumerate(learned)}
            counts = Counter()
            for word, count in words.items():
                # the letters too, so that a new word can always be spelled with those of old ones
                for part in {*merge(word, ranks), *letters(word)}:
                    counts[part] += count
        kept = sorted((symbol for symbol, n in counts.items() if n >= min_freq), key=lambda s: (-counts[s], s))
        return cls(kept, learned, sorted(words) if learned else (), lower=lower)

    def __len__(self) -> int:
        return len(self.symbols)

    def __contains__(self, symbol: object) -> bool:
        return symbol in self.numbers

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pieces) and self._content() == other._content()

    def __hash__(self) -> int:
        return hash((self.symbols, self.lower))

    def __repr__(self) -> str:
        kind = f"subwords, {len(self.merges)} merges" if self.merges else "words"
        return f"Pieces({len(self)} {kind}{', lower case' if self.lower else ''})"

    def encode(self, sentence: str) -> list[int]:
        """Return the numbers of a sentence's pieces, without begin and end; an unknown piece has number 1."""
        found: list[int] = []
        for word in split(sentence, self.lower):
            numbers = self._known.get(word)
            if numbers is None:
                if len(self._known) >= CACHE_SIZE:
                    self._known.clear()
                numbers = self._known[word] = tuple(self.numbers.get(part, UNKNOWN) for part in self._parts(word))
            found += numbers
        return found

    def lexicon(self) -> Lexicon | None:
        """Return the words they were learned from, by their pieces; None where words are not kept."""
        if not self.words:
            return None
        words = []
        for word in self.words:
            numbers = tuple(self.numbers.get(part, UNKNOWN) for part in self._parts(word))
            if UNKNOWN not in numbers:
                words.append(KnownWord(numbers, word.startswith(SPACE), not word[-1].isalnum() and word[-1] != "_"))
        return Lexicon(words, len(self), END)

    def _parts(self, word: str) -> list[str]:
        if not self.merges:
            return [word]
        # a part too rare for a number of its own is spelled
        parts = merge(word, self._ranks)
        return [piece for part in parts for piece in ([part] if part in self.numbers else letters(part))]

    def decode(self, numbers: Iterable[int]) -> str:
        """Return the sentence of these numbers, as far as its end; padding and begin are left out."""
        parts = []
        for number in numbers:
            if number == END:
                break
            if number == UNKNOWN:
                parts.append(f"{SPACE}{SPECIAL[UNKNOWN]}")
            elif number > END:
                parts.append(self.symbols[number])
        return "".join(parts).replace(SPACE, " ").strip()

    def save(self, path: Path) -> None:
        """Write the pieces as JSON."""
        content = json.dumps(self._content(), ensure_ascii=False, indent=0) + "\n"
        write_atomically(path, content.encode())

    @classmethod
    def load(cls, path: Path) -> Pieces:
        """Read pieces written by `save`.

        Raises:
            DataError: the file is missing, damaged or something else.
        """
        content = read_json(path, FORMAT, "vocabulary of pieces")
        # those of before there was a lexicon have no words
        return cls(content["symbols"], content["merges"], content.get("words", ()), lower=content["lower"])

    def _content(self) -> dict[str, Any]:
        symbols, merges = list(self.symbols[len(SPECIAL) :]), [list(pair) for pair in self.merges]
        words = {"words": list(self.words)} if self.words else {}
        return {"format": FORMAT, "lower": self.lower, "symbols": symbols, "merges": merges, **words}


def split(sentence: str, lower: bool = True) -> list[str]:
    """Return the words and signs of a sentence; those after a space (and the first) begin with "▁"."""
    pieces = []
    for chunk in (sentence.lower() if lower else sentence).split():
        first, *rest = _PIECE.findall(chunk) or [chunk]
        pieces += [SPACE + first, *rest]
    return pieces
