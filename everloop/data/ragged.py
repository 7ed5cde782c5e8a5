"""Rows of numbers of any length, in a temporary file once they are many: in memory is only where each row ends."""

from __future__ import annotations

import tempfile
import weakref
from array import array
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from everloop.data.files import writing
from everloop.data.lazy import Array, Column

SPILL = 1 << 24  # bytes that are kept in memory before a file takes them
PIECE = 1 << 20  # numbers that are looked at together, where all are


class Shelf(Column[Tensor]):
    """Rows [n] or [n, width], put down one after another and then read in any order.

    The file is in the folder for temporary files (TMPDIR names another) and gone with the shelf. What is read is mapped
    into memory, so that the operating system holds as much of it as there is room for.

    Args:
        dtype: of the numbers, as NumPy names it.
        width: numbers of a step; 0: a row is a row of numbers.
        spill: bytes after which a file takes them; by default SPILL.
    """

    def __init__(self, dtype: str = "int32", width: int = 0, spill: int | None = None) -> None:
        self.dtype, self.width = np.dtype(dtype), width
        self.ends = array("q")
        self._spill = SPILL if spill is None else spill
        self._kept, self._steps = bytearray(), 0
        self._file: IO[bytes] | None = None
        self._all: Array | None = None

    def write(self, numbers: Any) -> None:
        """Go on with a row."""
        assert self._all is None, "a shelf is filled before it is read"
        found = np.asarray(numbers, self.dtype)
        self._steps += len(found)
        self._kept += found.tobytes()
        if len(self._kept) > self._spill:
            with writing(_place()):
                if self._file is None:
                    self._file = tempfile.TemporaryFile(prefix="everloop-")  # noqa: SIM115, open as long as it is filled
                    weakref.finalize(self, self._file.close)
                self._file.write(self._kept)
            self._kept = bytearray()

    def append(self, row: Any) -> None:
        """Put down a row."""
        self.write(row)
        self.ends.append(self._steps)

    def __len__(self) -> int:
        return len(self.ends)

    def item(self, index: int) -> Tensor:
        return torch.from_numpy(self.all[self.ends[index - 1] if index else 0 : self.ends[index]])

    @property
    def all(self) -> Array:
        """All rows, one after another."""
        if self._all is None:
            shape = (self._steps, self.width) if self.width else (self._steps,)
            if self._file is not None:
                with writing(_place()):
                    self._file.write(self._kept)
                    self._file.flush()
                self._kept = bytearray()
                self._all = np.memmap(self._file, self.dtype, "r+", shape=shape)
                self._file.close()  # the map remains
            elif self._kept:
                self._all = np.frombuffer(self._kept, self.dtype).reshape(shape)
            else:
                self._all = np.zeros(shape, self.dtype)
        return self._all

    @property
    def lengths(self) -> Array:
        """The steps of each row."""
        return np.diff(np.frombuffer(self.ends, np.int64), prepend=0) if self.ends else np.zeros(0, np.int64)

    def count(self, number: int) -> int:
        """Return how often a number occurs."""
        return sum(int((piece == number).sum()) for piece in pieces(self.all))


class Lists(Column[list[int]]):
    """Lists of whole numbers, on a shelf."""

    def __init__(self) -> None:
        self.shelf = Shelf()

    def append(self, row: Sequence[int]) -> None:
        """Put down a list."""
        self.shelf.append(row)

    def __len__(self) -> int:
        return len(self.shelf)

    def item(self, index: int) -> list[int]:
        found: list[int] = self.shelf.item(index).tolist()
        return found


class Texts(Column[str]):
    """Strings, on a shelf."""

    def __init__(self) -> None:
        self.shelf = Shelf("uint8")

    def append(self, text: str) -> None:
        """Put down a string."""
        self.shelf.append(np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8))

    def __len__(self) -> int:
        return len(self.shelf)

    def item(self, index: int) -> str:
        return self.shelf.item(index).numpy().tobytes().decode("utf-8", "surrogatepass")


class WordLists(Column[list[str]]):
    """Lists of words, on a shelf; each different word is kept once, in memory."""

    def __init__(self) -> None:
        self.lists = Lists()
        self.numbers: dict[str, int] = {}
        self.words: list[str] = []

    def append(self, words: Sequence[str]) -> None:
        """Put down a list of words."""
        row = []
        for word in words:
            number = self.numbers.setdefault(word, len(self.words))
            if number == len(self.words):
                self.words.append(word)
            row.append(number)
        self.lists.append(row)

    def __len__(self) -> int:
        return len(self.lists)

    def item(self, index: int) -> list[str]:
        return [self.words[number] for number in self.lists.item(index)]


def _place() -> str:
    """Return how a message calls the file, which has no name."""
    return f"temporary file in {tempfile.gettempdir()} (TMPDIR names another folder)"


def pieces(numbers: Array) -> Iterator[Array]:
    """Yield an array in pieces, so that what is computed of each is small."""
    return (numbers[i : i + PIECE] for i in range(0, len(numbers), PIECE))
