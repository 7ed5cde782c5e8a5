"""Sequences whose items are made when they are read, so that they need not be in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np
from torch.utils import data

Array = np.ndarray[Any, Any]
Item = TypeVar("Item", covariant=True)
Left = TypeVar("Left", covariant=True)
Right = TypeVar("Right", covariant=True)


class LazySequence(Sequence[Item], data.Dataset[Item], Generic[Item]):
    """A sequence, which is a map-style dataset to a DataLoader; a subclass defines `__len__` and `item`."""

    def item(self, index: int) -> Item:
        """Return an item; 0 <= index < len(self)."""
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
            raise IndexError(f"index is {index}; expected one below {count}")
        return self.item(index % count)


def repr_of_list(items: Iterable[object]) -> Iterator[str]:
    """Yield the repr() of a list of these items, piece by piece."""
    yield "["
    for i, item in enumerate(items):
        yield f"{', ' if i else ''}{item!r}"
    yield "]"


class Mapped(LazySequence[Right], Generic[Left, Right]):
    """The items of a sequence after a function."""

    def __init__(self, items: Sequence[Left], function: Callable[[Left], Right]) -> None:
        self.items, self.function = items, function

    def __len__(self) -> int:
        return len(self.items)

    def item(self, index: int) -> Right:
        return self.function(self.items[index])


class Subset(LazySequence[Item]):
    """Some items of a sequence, by index."""

    def __init__(self, items: Sequence[Item], indices: Array) -> None:
        self.items, self.indices = items, indices

    def __len__(self) -> int:
        return len(self.indices)

    def item(self, index: int) -> Item:
        return self.items[int(self.indices[index])]


class Zip(LazySequence[tuple[Left, Right]], Generic[Left, Right]):
    """The pairs of two sequences of the same length."""

    def __init__(self, left: Sequence[Left], right: Sequence[Right]) -> None:
        self.left, self.right = left, right

    def __len__(self) -> int:
        return len(self.left)

    def item(self, index: int) -> tuple[Left, Right]:
        return self.left[index], self.right[index]
