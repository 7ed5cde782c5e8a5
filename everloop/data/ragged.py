"""Ragged arrays: rows of different lengths, one after another; past a size in a temporary file, not in memory."""

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
from everloop.data.lazy import Array, LazySequence

SPILL = 1 << 24  # bytes that are kept in memory at most
PIECE = 1 << 20  # numbers in a piece, where an array is read in pieces


class RaggedArray(LazySequence[Tensor]):
    """Rows [n] or [n, width], appended one after another and then read in any order.

    Past `spill` bytes they are written to a file in the folder for temporary files (TMPDIR names another), which is
    mapped into memory and deleted with the array.

    Args:
        dtype: of the numbers, as NumPy names it.
        width: the second axis of a row; 0: a row has one axis.
        spill: bytes that are kept in memory at most; by default SPILL.
    """

    def __init__(self, dtype: str = "int32", width: int = 0, spill: int | None = None) -> None:
        self.dtype, self.width = np.dtype(dtype), width
        self.ends = array("q")
        self._spill = SPILL if spill is None else spill
        self._kept, self._steps = bytearray(), 0
        self._file: IO[bytes] | None = None
        self._all: Array | None = None

    def write(self, numbers: Any) -> None:
        """Append numbers to the row that is being written."""
        assert self._all is None, "rows are appended before they are read"
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
        """Append a row."""
        self.write(row)
        self.ends.append(self._steps)

    def __len__(self) -> int:
        return len(self.ends)

    def item(self, index: int) -> Tensor:
        return torch.from_numpy(self.all[self.ends[index - 1] if index else 0 : self.ends[index]])

    def __getstate__(self) -> dict[str, Any]:
        # the file stays in this process; a copy in another one holds the rows in memory
        return {**self.__dict__, "_all": np.array(self.all), "_kept": bytearray(), "_file": None}

    @property
    def all(self) -> Array:
        """All rows, concatenated."""
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
        """The length of each row."""
        return np.diff(np.frombuffer(self.ends, np.int64), prepend=0) if self.ends else np.zeros(0, np.int64)

    def count(self, number: int) -> int:
        """Return how often a number occurs."""
        return sum(int((piece == number).sum()) for piece in pieces(self.all))


class IntLists(LazySequence[list[int]]):
    """Lists of whole numbers, in a ragged array."""

    def __init__(self) -> None:
        self.rows = RaggedArray()

    def append(self, row: Sequence[int]) -> None:
        """Append a list."""
        self.rows.append(row)

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int) -> list[int]:
        found: list[int] = self.rows.item(index).tolist()
        return found


class Strings(LazySequence[str]):
    """Strings, in a ragged array."""

    def __init__(self) -> None:
        self.rows = RaggedArray("uint8")

    def append(self, text: str) -> None:
        """Append a string."""
        self.rows.append(np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8))

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int) -> str:
        return self.rows.item(index).numpy().tobytes().decode("utf-8", "surrogatepass")


class WordLists(LazySequence[list[str]]):
    """Lists of words, in a ragged array; each different word is kept once, in memory."""

    def __init__(self) -> None:
        self.lists = IntLists()
        self.numbers: dict[str, int] = {}
        self.words: list[str] = []

    def append(self, words: Sequence[str]) -> None:
        """Append a list of words."""
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
    """Return what a message calls the file, which has no name."""
    return f"temporary file in {tempfile.gettempdir()} (TMPDIR names another folder)"


def pieces(numbers: Array) -> Iterator[Array]:
    """Yield an array in pieces, so that what is computed from each is small."""
    return (numbers[i : i + PIECE] for i in range(0, len(numbers), PIECE))
