"""Sequences whose items are made when they are asked for, so that none need be in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np

Array = np.ndarray[Any, Any]
Item = TypeVar("Item", covariant=True)
Left = TypeVar("Left", covariant=True)
Right = TypeVar("Right", covariant=True)


class Column(Sequence[Item], Generic[Item]):
    """A sequence; a subclass writes `__len__` and `item`, which makes one item."""

    def item(self, index: int) -> Item:
        """Return an item, of those from 0 to the length."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        count = len(self)
        if isinstance(index, slice):
            return [self.item(i) for i in range(*index.indices(count))]
        if not -count <= index < count:
            raise IndexError(f"number {index} of {count}")
        return self.item(index % count)


def listed(items: Iterable[object]) -> Iterator[str]:
    """Yield repr() of a list of these items, in pieces."""
    yield "["
    for i, item in enumerate(items):
        yield f"{', ' if i else ''}{item!r}"
    yield "]"


class Chosen(Column[Item]):
    """Some items of a sequence, by their numbers."""

    def __init__(self, items: Sequence[Item], numbers: Array) -> None:
        self.items, self.numbers = items, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def item(self, index: int) -> Item:
        return self.items[int(self.numbers[index])]


class Beside(Column[tuple[Left, Right]], Generic[Left, Right]):
    """The pairs of two sequences of the same length."""

    def __init__(self, left: Sequence[Left], right: Sequence[Right]) -> None:
        self.left, self.right = left, right

    def __len__(self) -> int:
        return len(self.left)

    def item(self, index: int) -> tuple[Left, Right]:
        return self.left[index], self.right[index]
