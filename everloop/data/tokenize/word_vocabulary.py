"""The words a model knows, each with its number; what it does not know is one symbol."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everloop.data.tokenize.spelling import END, Splitting, is_sign, spaced, spellings
from everloop.data.tokenize.vocabulary import DOCUMENT_END, MIN_FREQ, Vocabulary, check_learned, read_content
from everloop.errors import DataError

NEW = "<unknown>"

Numbers = np.ndarray[Any, np.dtype[np.int64]]


class WordVocabulary(Vocabulary):
    """Words and signs with numbers: 0 is every unknown word, 1 the end of a line.

    Args:
        symbols: different strings, the first "<unknown>", the second a newline; signs with the spaces beside them.
        lower: whether texts are read in lower case.
        separator: what ends a document in a text, as of a Vocabulary; it also ends a line.
        pretokenized: whether words and signs are what stands between spaces.
    """

    unknown = 0

    def __init__(
        self,
        symbols: Iterable[str],
        *,
        lower: bool = False,
        separator: str | None = None,
        pretokenized: bool = False,
    ) -> None:
        self._number(symbols, "words", separator)
        self.lower, self.pretokenized = lower, pretokenized
        self.splitting = splitting(lower, pretokenized, separator)
        if self.symbols[:2] != (NEW, END):
            raise DataError(f"a vocabulary of words begins with {self.symbols[:2]}; expected {(NEW, END)}")
        for symbol in self.symbols[2:]:
            if pretokenized and symbol.split() != [symbol] and symbol != DOCUMENT_END:
                raise DataError(f"symbol {symbol!r} has a space in it, and texts are split at spaces")
            if not symbol.strip(" ") or (symbol != symbol.strip() and not is_sign(symbol)):
                raise DataError(f"symbol {symbol!r} is no word or sign")

    @classmethod
    def learn(
        cls,
        counts: Counter[str],
        *,
        min_freq: int = MIN_FREQ,
        max_vocab: int | None = None,
        separator: str | None = None,
        lower: bool = False,
        pretokenized: bool = False,
    ) -> WordVocabulary:
        """Return the words that occur at least so often, the most frequent first, at most `max_vocab` of them."""
        check_learned(min_freq, max_vocab)
        always = (NEW, END) if separator is None else (NEW, END, DOCUMENT_END)
        kept = [s for s, n in counts.items() if n >= min_freq and s not in always]
        most = sorted(kept, key=lambda s: (-counts[s], s))[:max_vocab]
        return cls((*always, *most), lower=lower, separator=separator, pretokenized=pretokenized)

    @property
    def identity(self) -> tuple[Any, ...]:
        return (*super().identity, self.lower, self.pretokenized)

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.symbols[2:7])) + ("…" if len(self) > 7 else "")
        return f"WordVocabulary({shown}{', lower case' if self.lower else ''}, {len(self):,} symbols)"

    def encode(self, text: str, place: str = "the text", position: int = 0, line: int = 1) -> Tensor:
        """Return the numbers of a text's words, signs and ends of lines, one axis; unknown ones are 0."""
        places: dict[str, int] = {}
        numbers = counted(self.marked(text), self.splitting, places)
        return self.take(places, numbers)

    def take(self, words: Iterable[str], numbers: Numbers) -> Tensor:
        """Return the numbers of a text whose different words, and the place of each among them, are known."""
        known = np.array([self._find(word) for word in words], dtype=np.int64)
        return torch.from_numpy(known[numbers]).to(self.dtype)

    def _find(self, word: str) -> int:
        # a sign beside which spaces never stood so is read as if they stood otherwise
        ways = spellings(word) if is_sign(word) and not self.pretokenized else [word]
        return next((self.numbers[way] for way in ways if way in self.numbers), 0)

    def unknown_symbols(self, text: str) -> list[str]:
        """Return the words of a text that are not known, in their order, as often as they occur."""
        lines = self.splitting.lines(self.marked(text))
        return [word.strip(" ") for line in lines for word in line if not self._find(word)]

    def one(self, word: str) -> int:
        """Return the number of a word that must be known.

        Raises:
            DataError: it is unknown, or not one word; the message names the nearest ones.
        """
        number = super().one(word)
        if number == self.unknown:
            near = get_close_matches(word.lower() if self.lower else word, self.symbols, n=3)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise DataError(f"the model knows {len(self):,} words, but not {word!r}{hint}")
        return number

    def stream(self, numbers: Iterable[int], after: str = "") -> Iterator[str]:
        """Yield the text of numbers as they come: a word with the space before it, if it needs one."""
        left, after = END, self.marked(after)
        if after and not after[-1].isspace():
            *_, line = self.splitting.lines(after)
            left = self.symbols[found] if (found := self._find(line[-1])) else line[-1]
        for number in numbers:
            symbol = self.symbols[number]
            if number == self.document_end:
                yield self.written(number)
                left = END
                continue
            apart = END not in (left, symbol) if self.pretokenized else spaced(left, symbol)
            yield " " * apart + symbol.strip(" ")
            left = symbol

    def _settings(self) -> dict[str, Any]:
        return {"units": self.units, "lower": self.lower, **({"pretokenized": True} if self.pretokenized else {})}

    @classmethod
    def load(cls, path: str | Path) -> WordVocabulary:
        """Read a vocabulary written by `save`.

        Raises:
            DataError: the file is missing, damaged or something else.
        """
        content = read_content(Path(path))
        if content["units"] != "words":
            raise DataError(f"{path} is a vocabulary of {content['units']}; expected one of words")
        flags = {name: bool(content.get(name)) for name in ("lower", "pretokenized")}
        return cls(content["symbols"], **flags, separator=content["separator"])


def splitting(lower: bool, pretokenized: bool, separator: str | None) -> Splitting:
    """Return how texts are split whose documents end with a separator, if they have several."""
    return Splitting(lower, pretokenized, END if separator is None else END + DOCUMENT_END)


def counted(text: str, how: Splitting, places: dict[str, int]) -> Numbers:
    """Return the place of each word of a text among the different ones; `places` is filled with those that are new."""
    numbers = array("q")
    for line in how.lines(text):
        numbers.extend([places.setdefault(word, len(places)) for word in line])
    return np.frombuffer(numbers, dtype=np.int64) if numbers else np.zeros(0, dtype=np.int64)
