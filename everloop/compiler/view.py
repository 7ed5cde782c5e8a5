"""Views: which feature of one row each feature of another is, as strides over axes.

One relation says broadcasts, permutations and strided slices of features, read in one direction, and sums over any
axes, read in the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Axis = tuple[int, int]  # how many, and how far apart in the source


@dataclass(frozen=True)
class View:
    """Feature j of a row is feature `offset` + the sum of digit * stride of the source.

    axes: (count, stride), outermost first; the digits are those of j in a number system with these counts.
    """

    axes: tuple[Axis, ...]
    offset: int = 0

    @classmethod
    def of(cls, numbers: Sequence[int]) -> View:
        """Return the view that these `numbers` stand for."""
        offset, *flat = numbers
        return cls(tuple(zip(flat[::2], flat[1::2], strict=True)), offset)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Plain numbers that stand for it: the offset, then count and stride of each axis."""
        return (self.offset, *(n for axis in self.axes for n in axis))

    @property
    def width(self) -> int:
        """How many features it has."""
        return math.prod(count for count, _ in self.axes)

    @property
    def index(self) -> NDArray[np.int64]:
        """The feature of the source for each feature."""
        return _index(self)

    @property
    def is_dense(self) -> bool:
        """Whether it only shifts features that lie side by side."""
        return all(stride == 1 for _, stride in self.axes) and len(self.axes) <= 1

    def covers(self, width: int) -> bool:
        """Whether it reaches all features of a source of this width."""
        return len(np.unique(self.index)) == width

    def after(self, inner: View) -> View | None:
        """Return the view of a view as one; None where strides cannot say it."""
        return fitted(inner.index[self.index])

    def part(self, start: int, stop: int) -> View | None:
        """Return a slice of the view as one; None where strides cannot say it."""
        return fitted(self.index[start:stop])


def tiled(views: Sequence[View], width: int) -> View | None:
    """Return the view that puts features which these views take, side by side, back where they came from.

    None where the views do not take each of `width` features once, or where strides cannot say it.
    """
    index = np.concatenate([view.index for view in views])
    if len(index) != width or len(np.unique(index)) != width:
        return None
    return fitted(np.argsort(index))


def apart(views: Sequence[View], width: int) -> list[int]:
    """Return the numbers of views, from the first on, that take no feature twice."""
    taken, found = np.zeros(width, dtype=bool), []
    for number, view in enumerate(views):
        if len(np.unique(view.index)) == view.width and not taken[view.index].any():
            taken[view.index] = True
            found.append(number)
    return found


@lru_cache(maxsize=1024)
def _index(view: View) -> NDArray[np.int64]:
    found = np.array([view.offset], dtype=np.int64)
    for count, stride in view.axes:
        found = (found[:, None] + stride * np.arange(count)).reshape(-1)
    found.flags.writeable = False
    return found


def fitted(index: NDArray[np.int64]) -> View | None:
    """Return the view with the fewest axes that has these features; None where there is none."""
    axes: list[Axis] = []
    rest = np.asarray(index)
    while len(rest) > 1:
        stride = int(rest[1] - rest[0])
        steps = np.flatnonzero(np.diff(rest) != stride)
        longest = int(steps[0]) + 1 if len(steps) else len(rest)
        for count in (c for c in range(longest, 1, -1) if len(rest) % c == 0):
            blocks = rest.reshape(-1, count)
            if (np.diff(blocks, axis=1) == stride).all():
                axes.insert(0, (count, stride))
                rest = blocks[:, 0]
                break
        else:
            return None
    return View(tuple(axes), int(rest[0])) if len(rest) else None


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of axes that lie one inside the other without gaps."""
    return tuple(math.prod(shape[k + 1 :]) for k in range(len(shape)))


def common_axes(views: Iterable[View]) -> tuple[tuple[int, ...], list[tuple[int, ...]]] | None:
    """Return counts of axes that all views of one width have in common, and the strides of each; None without such."""
    views = list(views)
    sizes = sorted({size for view in views for size in (*contiguous([n for n, _ in view.axes]), view.width)} | {1})
    if any(outer % inner for inner, outer in pairwise(sizes)):
        return None
    joined: list[tuple[int, tuple[int, ...]]] = []  # innermost first
    for inner, outer in pairwise(sizes):
        count, strides = outer // inner, tuple(_stride(view, inner) for view in views)
        if joined and all(far == near * joined[-1][0] for far, near in zip(strides, joined[-1][1], strict=True)):
            joined[-1] = (joined[-1][0] * count, joined[-1][1])
        else:
            joined.append((count, strides))
    joined.reverse()
    return tuple(n for n, _ in joined), [tuple(strides[k] for _, strides in joined) for k in range(len(views))]


def _stride(view: View, inside: int) -> int:
    """Return how far apart in the source are features that are `inside` apart in the view."""
    size = 1
    for count, stride in reversed(view.axes):
        if inside < size * count:
            return stride * (inside // size)
        size *= count
    raise AssertionError(f"{inside} is beyond {view}")
