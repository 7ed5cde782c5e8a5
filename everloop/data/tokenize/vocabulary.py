"""The symbols a model knows, each with its number."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from everloop.data.tokenize.vocabulary_file import read_json, strings, write_json
from everloop.errors import DataError, OptionError, unknown

Units = Literal["characters", "words", "bytes", "subwords"]
UNKNOWN = "\ufffd"  # the replacement character of Unicode
DOCUMENT_END = "\x1c"  # the file separator of ASCII
MIN_FREQ = 2  # so that rare symbols of the training text teach a model what an unknown one is like


class Vocabulary:
    """The symbols a model knows, numbered from 0 in the given order.

    Args:
        symbols: different non-empty strings; with `units="characters"` each is one character, and where the first is
            U+FFFD it stands for every character that is not known.
        units: what one symbol of a text is, "characters" or "bytes"; for "words" and "subwords" there are
            WordVocabulary and SubwordVocabulary.
        separator: what ends a document in a text, if the text has several; it is read as the one symbol U+001C.
    """

    unknown: int | None = None  # the number that stands for every symbol that is not known, if there is one

    def __init__(self, symbols: Iterable[str], units: Units = "characters", *, separator: str | None = None) -> None:
        self._number(symbols, check_units(units), separator)
        if units in ("words", "subwords"):
            raise OptionError(f"units is {units!r}, which have a vocabulary of their own; expected characters or bytes")
        if any(len(symbol) != 1 for symbol in self.symbols):
            wrong = next(symbol for symbol in self.symbols if len(symbol) != 1)
            raise DataError(f"symbol {wrong!r} is not one character; expected single {units}")
        if units == "bytes" and self.symbols != BYTES:
            raise DataError("a vocabulary of bytes has the 256 byte values as its symbols, in order")
        if units == "characters" and self.symbols[0] == UNKNOWN:
            self.unknown = 0
        codes = _codes("".join(self.symbols))
        self._order = np.argsort(codes)
        self._codes = codes[self._order]

    def _number(self, symbols: Iterable[str], units: Units, separator: str | None) -> None:
        self.symbols, self.units, self.separator = tuple(symbols), units, separator
        self.numbers = {symbol: number for number, symbol in enumerate(self.symbols)}
        if not self.symbols:
            raise DataError("a vocabulary has no symbols; expected at least one")
        if len(self.numbers) != len(self.symbols):
            twice = next(s for i, s in enumerate(self.symbols) if self.numbers[s] != i)
            raise DataError(f"symbol {twice!r} is twice in the vocabulary")
        if separator is not None and DOCUMENT_END not in self.numbers:
            raise DataError(f"separator is {separator!r}, and no symbol is {DOCUMENT_END!r}, as which it is read")

    @classmethod
    def of(cls, text: str, units: Units = "characters") -> Vocabulary:
        """Return the vocabulary of a text: its characters in code order, or all 256 bytes."""
        return cls(BYTES, units) if check_units(units) == "bytes" else cls(sorted(set(text)), units)

    @classmethod
    def learn(
        cls,
        counts: Counter[str],
        *,
        min_freq: int = MIN_FREQ,
        max_vocab: int | None = None,
        separator: str | None = None,
    ) -> Vocabulary:
        """Return the characters that occur at least so often, the `max_vocab` most frequent of them, in code order.

        The first symbol is that of every other character; the end of a document is always known.
        """
        check_learned(min_freq, max_vocab)
        always = set() if separator is None else {DOCUMENT_END}
        kept = [s for s, n in counts.items() if n >= min_freq and s not in (UNKNOWN, *always)]
        if not kept:
            raise DataError(f"no character occurs {min_freq} times; give more text, or take min_freq 1")
        most = sorted(kept, key=lambda s: (-counts[s], s))[:max_vocab]
        return cls((UNKNOWN, *sorted({*most, *always})), separator=separator)

    def __len__(self) -> int:
        return len(self.symbols)

    def __contains__(self, symbol: object) -> bool:
        return symbol in self.numbers

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    @property
    def identity(self) -> tuple[Any, ...]:
        """What makes two vocabularies the same."""
        return (self.symbols, self.units, *(() if self.separator is None else (self.separator,)))

    @property
    def document_end(self) -> int | None:
        """The number of the symbol that ends a document, if texts have several; a model begins anew as it reads it."""
        return None if self.separator is None else self.numbers[DOCUMENT_END]

    def marked(self, text: str) -> str:
        """Return a text with each separator of documents as the one character that stands for it."""
        return text if self.separator is None else text.replace(self.separator, DOCUMENT_END)

    def __repr__(self) -> str:
        shown = "256 bytes" if self.units == "bytes" else repr("".join(self.symbols[:60]))
        return f"Vocabulary({shown}{'…' if len(self) > 60 and self.units != 'bytes' else ''}, {len(self)} symbols)"

    @property
    def dtype(self) -> torch.dtype:
        """The smallest integer type that holds every number."""
        return torch.uint8 if len(self) <= 256 else torch.int32

    def encode(self, text: str, place: str = "the text", position: int = 0, line: int = 1) -> Tensor:
        """Return the numbers of a text's symbols, one axis, in the smallest dtype that holds them.

        Args:
            text: what is read.
            place, position, line: where it begins, for messages.

        Raises:
            DataError: a symbol is unknown; the message names it, its position and `place`.
        """
        if self.units == "bytes":
            try:
                return torch.tensor(bytearray(text.encode("utf-8", "surrogateescape")), dtype=torch.uint8)
            except UnicodeEncodeError as error:
                wrong = f"U+{ord(text[error.start]):04X} at position {error.start} of {place}"
                raise DataError(f"{wrong} is half a surrogate pair and has no bytes") from None
        text = self.marked(text)
        codes = _codes(text)
        spots = np.minimum(np.searchsorted(self._codes, codes), len(self) - 1)
        missing = np.flatnonzero(self._codes[spots] != codes)
        numbers = self._order[spots]
        if len(missing):
            if self.unknown is None:
                raise DataError(self._unknown(text, int(missing[0]), place, position, line))
            numbers[missing] = self.unknown
        return torch.from_numpy(numbers).to(self.dtype)

    def one(self, symbol: str) -> int:
        """Return the number of a single symbol.

        Raises:
            DataError: it is unknown, or not one.
        """
        numbers = self.encode(symbol, "the symbol").tolist()
        if len(numbers) != 1:
            raise DataError(f"{symbol!r} is {len(numbers)} {self.units}; expected one")
        return int(numbers[0])

    def unknown_symbols(self, text: str) -> list[str]:
        """Return the symbols of a text that are read as the unknown one, if there is one; else `encode` raises."""
        if self.unknown is None:
            return []
        return [symbol for symbol in self.marked(text) if self.numbers.get(symbol, self.unknown) == self.unknown]

    def decode(self, numbers: Iterable[int] | Tensor, after: str = "") -> str:
        """Return the text of these numbers. Bytes that are not UTF-8 become U+FFFD. `after` as in `stream`."""
        return "".join(self.stream(numbers.tolist() if isinstance(numbers, Tensor) else numbers, after))

    def stream(self, numbers: Iterable[int], after: str = "") -> Iterator[str]:
        """Yield the text of numbers as they come: a character as soon as it is complete.

        `after` is the text that stands before them; whether a word begins with a space depends on it.
        """
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        for number in numbers:
            piece = utf8.decode(bytes([number])) if self.units == "bytes" else self.written(number)
            if piece:
                yield piece
        if rest := utf8.decode(b"", final=True):
            yield rest

    def written(self, number: int) -> str:
        """Return how a symbol is written in a text."""
        return self.separator if self.separator is not None and number == self.document_end else self.symbols[number]

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as JSON."""
        ends = {} if self.separator is None else {"separator": self.separator}
        write_json(Path(path), FORMAT, {**self._settings(), **ends, "symbols": list(self.symbols)})

    def _settings(self) -> dict[str, Any]:
        return {"units": self.units}

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read a vocabulary written by `save`.

        Raises:
            DataError: the file is missing, damaged or something else.
        """
        content = read_content(Path(path))
        if content["units"] in ("words", "subwords"):
            raise DataError(f"{path} is a vocabulary of {content['units']}; expected one of characters or bytes")
        return cls(content["symbols"], content["units"], separator=content["separator"])

    def _unknown(self, text: str, at: int, place: str, position: int, line: int) -> str:
        symbol = text[at]
        position, line = position + at, line + text.count("\n", 0, at)
        came = f"unknown symbol {symbol!r} (U+{ord(symbol):04X}) at position {position}, line {line} of {place}"
        return f"{came}; the model knows {len(self):,} others, and has none for what it does not know"


FORMAT = "everloop-vocabulary-1"
BYTES = tuple(chr(n) for n in range(256))


def read_content(path: Path) -> dict[str, Any]:
    """Return what a vocabulary's file holds, with symbols and units.

    Raises:
        DataError: the file is missing, damaged or something else.
    """
    content = read_json(path, FORMAT)
    strings(content, "symbols", path)
    units = content.setdefault("units", "characters")
    if units not in get_args(Units):
        raise DataError(f"{path}: {unknown('unit of text', str(units), get_args(Units))}")
    separator = content.setdefault("separator", None)
    if separator is not None and (not isinstance(separator, str) or not separator):
        raise DataError(f"{path}: separator is {separator!r}; expected a text that ends a document")
    return content


def check_units(units: str) -> Units:
    """Return `units` if it names what a symbol can be.

    Raises:
        OptionError: it does not.
    """
    for known in get_args(Units):
        if units == known:
            return units  # type: ignore[return-value]
    raise OptionError(unknown("unit of text", units, get_args(Units)))


def _codes(text: str) -> np.ndarray[Any, np.dtype[np.uint32]]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def check_learned(min_freq: int, max_vocab: int | None) -> None:
    """Check which symbols are to be kept.

    Raises:
        OptionError: that makes no sense.
    """
    if min_freq < 1:
        raise OptionError(f"min_freq is {min_freq}; expected at least 1")
    if max_vocab is not None and max_vocab < 1:
        raise OptionError(f"max_vocab is {max_vocab}; expected at least 1")
