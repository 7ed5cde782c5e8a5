"""Tokenizers of classifiers and taggers: texts, or words and their characters, as numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from everloop.data.batching.batch import Tensors, sequence_mask
from everloop.data.batching.padding import padded_numbers
from everloop.data.pictures import PictureSize
from everloop.data.tokenize.symbols import UNKNOWN, Symbols
from everloop.data.tokenize.vocabulary_file import read_json, strings, write_json
from everloop.errors import DataError, OptionError, unknown

TokenUnits = Literal["words", "characters"]
# Thai, Lao, Tibetan, Burmese, Khmer, kana and Chinese characters: scripts that put no spaces between words
UNSPACED = re.compile(
    r"[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
FEATURES, PICTURES = "everloop-features-1", "everloop-pictures-1"
CACHE_SIZE = 1_000_000  # different words whose numbers are cached
MAX_WORD_LENGTH = 24  # characters of a word that are read: the first and the last half, where it is longer
SINGLE = 1.25  # words of a text, on average, below which texts count as single words
_ENDING = r"['’](?:s|re|ve|ll|d|m)\b"
_WORD = re.compile(rf"{_ENDING}|\w+(?:(?!{_ENDING})['’]\w+)*|[^\w\s]", re.IGNORECASE)


def words_of(text: str) -> list[str]:
    """Return the words and signs of a text."""
    return _WORD.findall(text)


def fitting_units(texts: Iterable[str]) -> TokenUnits:
    """Return what a step of some texts should be: a character where words are not told apart by spaces.

    That is, where most letters are of a script without spaces, or where texts are single words, such as names.
    """
    letters = unspaced = words = count = 0
    for text in texts:
        letters += sum(map(str.isalpha, text))
        unspaced += len(UNSPACED.findall(text))
        words, count = words + len(text.split()), count + 1
    return "characters" if 2 * unspaced > letters or words < SINGLE * count else "words"


class TextTokenizer:
    """Texts as numbers: of their words, or of their characters.

    Args:
        symbols: those to read.
        units: what a symbol is.
        lower: whether texts are read in lower case.
    """

    format = "everloop-text-reader-1"

    def __init__(self, symbols: Symbols, units: TokenUnits = "words", *, lower: bool = True) -> None:
        if units not in get_args(TokenUnits):
            raise OptionError(unknown("unit of text", units, get_args(TokenUnits)))
        self.symbols, self.units, self.lower = symbols, units, lower

    @classmethod
    def learn(
        cls, texts: Iterable[str], units: TokenUnits = "words", *, lower: bool = True, min_freq: int = 1
    ) -> TextTokenizer:
        """Return the tokenizer of some texts, with every symbol that occurs at least so often."""
        self = cls(Symbols.learn(Counter()), units, lower=lower)
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(self.split(text))
        self.symbols = Symbols.learn(counts, min_freq)
        return self

    def split(self, text: str) -> list[str]:
        """Return the symbols of a text."""
        text = text.lower() if self.lower else text
        return words_of(text) if self.units == "words" else list(text)

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """Return the numbers of a text; an empty one is a single unknown symbol."""
        return self.symbols.encode(self.split(text)[:max_length]) or [UNKNOWN]

    def save(self, path: Path) -> None:
        """Write the tokenizer as JSON."""
        content = {"units": self.units, "lower": self.lower, "symbols": self.symbols.symbols}
        write_json(path, self.format, content)

    @classmethod
    def load(cls, path: Path) -> TextTokenizer:
        """Read a tokenizer written by `save`."""
        content = read_json(path, cls.format)
        symbols = Symbols(strings(content, "symbols", path))
        return cls(symbols, content.get("units", "words"), lower=bool(content.get("lower")))

    def __repr__(self) -> str:
        return f"TextTokenizer({len(self.symbols):,} {self.units}{', lower case' if self.lower else ''})"


def save_tokenizer(folder: Path, reads: TextTokenizer | WordTokenizer | PictureSize | int) -> None:
    """Write what a model reads into a run folder: a tokenizer, how many numbers a step has, or how large a picture."""
    if isinstance(reads, int):
        write_json(folder / "reader.json", FEATURES, {"features": reads})
    elif isinstance(reads, PictureSize):
        write_json(folder / "reader.json", PICTURES, vars(reads))
    else:
        reads.save(folder / "reader.json")


def load_tokenizer(
    folder: Path, kind: type[TextTokenizer] | type[WordTokenizer]
) -> TextTokenizer | WordTokenizer | PictureSize | int:
    """Return what a model reads, as `save_tokenizer` wrote it.

    Raises:
        DataError: it is missing, damaged or something else.
    """
    path = folder / "reader.json"
    form = read_json(path).get("format")
    if form == PICTURES:
        return PictureSize.read(read_json(path, PICTURES), path)
    if form != FEATURES:
        return kind.load(path)
    found = read_json(path, FEATURES).get("features")
    if not isinstance(found, int) or found < 1:
        raise DataError(f"{path}: features is {found!r}; expected an integer of at least 1")
    return found


@dataclass(frozen=True)
class Words(Tensors):
    """Sentences as numbers. Each different word of a batch is spelled once.

    numbers: of words [T, B]; spelled: numbers of the characters of W different words [C, W]; spelled_lengths: [W];
    which: for each step the place of its word among them [T, B].
    """

    numbers: Tensor
    spelled: Tensor
    spelled_lengths: Tensor
    which: Tensor

    def rows(self, start: int, stop: int) -> Words:
        """Return the sentences from `start` to before `stop`; the words that are spelled stay those of all."""
        return replace(self, numbers=self.numbers[:, start:stop], which=self.which[:, start:stop])


class WordTokenizer:
    """Words as numbers, of the word (in lower case, if so chosen) and of its characters (as they are).

    Args:
        words, characters: the symbols to read.
        lower: whether a word's number is that of its lower case.
    """

    format = "everloop-word-reader-1"

    def __init__(self, words: Symbols, characters: Symbols, *, lower: bool = True) -> None:
        self.words, self.characters, self.lower = words, characters, lower
        self._known: dict[str, tuple[int, list[int]]] = {}

    @classmethod
    def learn(cls, sentences: Iterable[Sequence[str]], *, lower: bool = True, min_freq: int = 1) -> WordTokenizer:
        """Return the tokenizer of some sentences, with every word that occurs at least so often."""
        words: Counter[str] = Counter()
        for sentence in sentences:
            words.update(sentence)
        spelled, folded = Counter[str](), Counter[str]()
        for word, count in words.items():
            folded[word.lower() if lower else word] += count
            for character in word:
                spelled[character] += count
        return cls(Symbols.learn(folded, min_freq), Symbols.learn(spelled), lower=lower)

    def encode(self, word: str) -> tuple[int, list[int]]:
        """Return the number of a word, and the numbers of its characters."""
        found = self._known.get(word)
        if found is None:
            half = MAX_WORD_LENGTH // 2
            letters = word if len(word) <= MAX_WORD_LENGTH else word[:half] + word[-half:]
            number = self.words.numbers.get(word.lower() if self.lower else word, UNKNOWN)
            if len(self._known) >= CACHE_SIZE:
                self._known.clear()
            found = self._known[word] = number, self.characters.encode(list(letters)) or [UNKNOWN]
        return found

    def batch(self, sentences: Sequence[Sequence[str]]) -> tuple[Words, Tensor]:
        """Return (words, lengths [B]) of sentences."""
        places: dict[str, int] = {}
        which, lengths = padded_numbers([[places.setdefault(word, len(places)) for word in s] for s in sentences])
        known = [self.encode(word) for word in places]
        spelled, spelled_lengths = padded_numbers([letters for _, letters in known])
        numbers = torch.tensor([number for number, _ in known])[which]
        return Words(numbers * sequence_mask(lengths, len(which)), spelled, spelled_lengths, which), lengths

    def save(self, path: Path) -> None:
        """Write the tokenizer as JSON."""
        content = {"lower": self.lower, "words": self.words.symbols, "characters": self.characters.symbols}
        write_json(path, self.format, content)

    @classmethod
    def load(cls, path: Path) -> WordTokenizer:
        """Read a tokenizer written by `save`."""
        content = read_json(path, cls.format)
        words, characters = (Symbols(strings(content, name, path)) for name in ("words", "characters"))
        return cls(words, characters, lower=bool(content.get("lower")))

    def __repr__(self) -> str:
        kind = ", lower case" if self.lower else ""
        return f"WordTokenizer({len(self.words):,} words{kind}, {len(self.characters):,} characters)"
