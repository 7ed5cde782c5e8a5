"""Symbols with numbers: words, characters or labels; those not known are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from everloop.data.tokenize.vocabulary_file import read_json, strings, write_json
from everloop.errors import DataError, OptionError, unknown

PAD, UNKNOWN = 0, 1
READ = ("<pad>", "<unknown>")
FORMAT = "everloop-symbols-1"


class Symbols:
    """Different strings, numbered in the given order.

    Args:
        symbols: the strings; for what a model reads they begin with padding (0) and unknown (1), labels do not.
    """

    def __init__(self, symbols: Iterable[str]) -> None:
        self.symbols = tuple(symbols)
        self.numbers = {symbol: number for number, symbol in enumerate(self.symbols)}
        self.open = self.symbols[:2] == READ
        if len(self.numbers) != len(self.symbols):
            twice = next(s for i, s in enumerate(self.symbols) if self.numbers[s] != i)
            raise DataError(f"symbol {twice!r} is twice in the vocabulary")

    @classmethod
    def learn(cls, counts: Counter[str], min_freq: int = 1) -> Symbols:
        """Return the symbols to read that occur at least so often, the most frequent first."""
        if min_freq < 1:
            raise OptionError(f"min_freq is {min_freq}; expected at least 1")
        kept = sorted((s for s, n in counts.items() if n >= min_freq and s not in READ), key=lambda s: (-counts[s], s))
        return cls((*READ, *kept))

    def __len__(self) -> int:
        return len(self.symbols)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Symbols) and self.symbols == other.symbols

    def __hash__(self) -> int:
        return hash(self.symbols)

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.symbols[:5])) + (", …" if len(self) > 5 else "")
        return f"Symbols({shown}; {len(self):,})"

    def encode(self, symbols: Sequence[str]) -> list[int]:
        """Return numbers; an unknown symbol has number 1.

        Raises:
            DataError: an unknown label.
        """
        if self.open:
            return [self.numbers.get(symbol, UNKNOWN) for symbol in symbols]
        for symbol in symbols:
            if symbol not in self.numbers:
                raise DataError(unknown("label", symbol, self.symbols))
        return [self.numbers[symbol] for symbol in symbols]

    def save(self, path: Path) -> None:
        """Write the symbols as JSON."""
        write_json(path, FORMAT, {"symbols": self.symbols})

    @classmethod
    def load(cls, path: Path) -> Symbols:
        """Read symbols written by `save`.

        Raises:
            DataError: the file is missing, damaged or something else.
        """
        return cls(strings(read_json(path, FORMAT), "symbols", path))
