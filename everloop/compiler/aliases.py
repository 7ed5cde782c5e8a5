"""Which values of a step show one memory, as parts and other shapes of a tensor, and what a change of one does to all.

PyTorch itself says where a view lies: the function that made it is called on the numbers of the places.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everloop.compiler import dtypes
from everloop.compiler.ir import Type, Value
from everloop.compiler.locations import unsupported
from everloop.compiler.pytree import tree_leaves, tree_map
from everloop.compiler.symbol import BatchSize, Function, Symbol, elementwise, spread
from everloop.compiler.view import View

_BATCH = 2  # sequences of the tensors of places
_PIECES = 128  # parts of a value and of what is written into it, side by side, at most
_BY_LAYOUT = ("contiguous", "einsum", "flatten", "reshape", "reshape_as")  # views or copies, by how the tensor lies
_SEVERAL = ("chunk", "split", "split_with_sizes", "unbind")  # whose results PyTorch lets nobody change in training
_ADVICE = "write it out, such as a = a + b, or change a copy, by clone()"


@dataclass(frozen=True, eq=False)
class Origin:
    """How a function made a view, or what may be one.

    function, args, kwargs: the call on symbols; known: its handler; part: which of its results this is, None of one.
    """

    source: Symbol
    name: str
    known: Function
    function: Callable[..., Any]
    args: Any
    kwargs: Any
    part: int | None

    def again(self) -> Symbol:
        """Return the view of what its source is now."""
        result = self.known.handler(*self.args, **self.kwargs)
        found: Symbol = result if self.part is None else result[self.part]
        return found


@dataclass(frozen=True)
class Place:
    """Where a symbol lies: which places of which tensor's memory it shows; refusal: why nobody may change it."""

    whole: Symbol
    places: Tensor
    refusal: str = ""

    @property
    def index(self) -> NDArray[np.int64]:
        """The features of the whole that it shows."""
        return np.asarray(self.places[0].reshape(-1).numpy())


def note_views(name: str, known: Function, function: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Remember whose memory the results of a function may show."""
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Symbol | Tensor)]
    source = next(leaf for leaf in given if isinstance(leaf, Symbol))
    if name == "einsum" and len(given) > 1:
        return  # a product
    several = isinstance(result, tuple | list)
    for part, symbol in enumerate(result if several else (result,)):
        if symbol is not source:
            symbol.origin = Origin(source, name, known, function, args, kwargs, part if several else None)
            symbol.builder.views.append(symbol)


def place_of(a: Symbol) -> Place:
    """Return where a symbol lies."""
    if a.place is None:
        a.place = own(a) if a.origin is None else _place_of_view(a, a.origin)
    found: Place = a.place
    return found


def own(a: Symbol, refusal: str = "") -> Place:
    """Return the place of a symbol in a memory of its own."""
    with torch.inference_mode(False):
        width = math.prod(a.axes)
        return Place(a, torch.arange(_BATCH * width).view(_BATCH, *a.axes), refusal)


def _place_of_view(a: Symbol, origin: Origin) -> Place:
    if not origin.source.rows:
        return own(a, "that may lie in the memory of a parameter")
    source = place_of(origin.source)
    refusal = source.refusal
    if origin.known.integers == "cast":
        if origin.source.dtype != a.dtype or origin.kwargs.get("copy"):
            return own(a)
        is_plain = len(origin.args) < 3 and not origin.kwargs.keys() - {"dtype", "device"}
        return Place(source.whole, source.places, refusal) if is_plain else _unclear(a, source, origin)
    places = _shown(origin, source.places)
    if origin.name in _BY_LAYOUT and (len(source.whole.axes) > 1 or _depends_on_batch(origin, source.places)):
        return _unclear(a, source, origin)
    if places.untyped_storage().data_ptr() != source.places.untyped_storage().data_ptr():
        return own(a)
    if origin.name == "detach":
        refusal = refusal or "that is detached"
    if origin.name in _SEVERAL:
        refusal = refusal or f"that {origin.name} gave, where PyTorch lets nobody change it in training"
    return Place(source.whole, places, refusal)


def _unclear(a: Symbol, source: Place, origin: Origin) -> Place:
    refusal = f"whose memory another may share, by {origin.name}"
    source.whole.refusal = a.refusal = refusal
    return own(a, refusal)


def _depends_on_batch(origin: Origin, places: Tensor) -> bool:
    """Whether PyTorch copies a view of several sequences, and not of one."""
    return origin.name == "contiguous" and places[:1].is_contiguous() and not places.is_contiguous()


def _shown(origin: Origin, places: Tensor) -> Tensor:
    """Return the places that a view shows."""

    def example(leaf: Any) -> Any:
        if leaf is origin.source:
            return places
        if isinstance(leaf, BatchSize):
            return _BATCH
        if isinstance(leaf, Symbol):
            shape = (_BATCH, *leaf.axes) if leaf.rows else tuple(leaf.shape)
            return dtypes.example_input(leaf.dtype, shape)
        return leaf

    result = dtypes.on_examples(origin.function, *tree_map((origin.args, origin.kwargs), example))
    found: Tensor = result if origin.part is None else result[origin.part]
    return found


def check_changeable(a: Symbol, what: str) -> None:
    """Refuse a change in place of a symbol whose memory is not the step's own, or may be anybody's."""
    if not a.rows:
        raise unsupported(f"{what} a value of parameters alone; write it out, such as a = a + b")
    for each in a.builder.views:
        place_of(each)
    place = place_of(a)
    if place.whole.is_given:
        name = place.whole.value.name
        raise unsupported(f"{what} {name}, which the step is given; change a copy of it: {name} = {name}.clone()")
    if refusal := place.refusal or place.whole.refusal:
        raise unsupported(f"{what} a value {refusal}; {_ADVICE}")
    if is_expanded(place):
        raise unsupported(f"{what} a value that is expanded, whose places share memory; {_ADVICE}")


def is_expanded(place: Place) -> bool:
    """Whether several numbers lie at one place."""
    return len(np.unique(place.index)) < len(place.index)


def check_apart(at: Place, others: Any, what: str) -> bool:
    """Refuse a change of a place by values that show some of it; return whether one shows just it."""
    is_same = False
    for other in tree_leaves(others):
        if not isinstance(other, Symbol) or not other.rows or place_of(other).whole is not at.whole:
            continue
        index = place_of(other).index
        if np.array_equal(index, at.index):
            is_same = True
        elif np.isin(index, at.index).any():
            raise unsupported(f"{what} a value by another part of its memory; write clone() of it")
    return is_same


def change(a: Symbol, value: Value, bound: float | None) -> None:
    """Give a symbol another value, and all that show its memory what they show of it then."""
    place = place_of(a)
    whole = place.whole
    if a is not whole:
        whole.value = written(whole, place.index, a.like(value, a.axes))
        bound = None if bound is None or whole.bound is None else max(whole.bound, bound)
    a.value, a.bound, whole.bound = value, bound, bound
    for view in a.builder.views:
        if view is not a and view is not whole and place_of(view).whole is whole:
            view.value, view.bound = view.origin.again().value, bound


# What is written
def written(whole: Symbol, index: NDArray[np.int64], part: Symbol) -> Value:
    """Return the value of a row after some of its features, each named once, have become those of another."""
    builder, width, count = whole.builder, math.prod(whole.axes), len(index)
    new, old = spread(part, count), spread(whole, width)
    source = np.arange(width)  # of the old features, and behind them the new
    source[index] = width + np.arange(count)
    edges = [0, *(np.flatnonzero(np.diff(source) != 1) + 1).tolist(), width]
    if len(edges) <= _PIECES + 1:
        starts = source[edges[:-1]].tolist()
        pieces = [
            builder.slice(old, at, at + stop - start) if at < width
            else builder.slice(new, at - width, at - width + stop - start)
            for at, (start, stop) in zip(starts, pairwise(edges), strict=True)
        ]  # fmt: skip
        return pieces[0] if len(pieces) == 1 else builder.make("cat", *pieces)
    margins, view = _lying(whole.axes, index)
    if view is None:
        raise unsupported(
            f"a change of {len(edges) - 1} parts that do not lie side by side; at most {_PIECES} are compiled"
        )
    before, behind = (builder.constant(0.0, Type((n,), rows=True)) for n in margins)
    wide = builder.make("cat", *(v for v in (before, new, behind) if v.width))
    mask = torch.zeros(width, dtype=whole.float_dtype)
    mask[torch.from_numpy(index)] = 1.0
    return elementwise("where", mask, whole.like(builder.view(wide, view)), whole.like(old)).value


def _lying(axes: tuple[int, ...], index: NDArray[np.int64]) -> tuple[tuple[int, int], View | None]:
    """Return the view whose features are those that are written, at their places, and others elsewhere.

    It is a view of what is written with margins around it, whose widths come first; None where strides cannot say it.
    """
    position = np.zeros(math.prod(axes), dtype=np.int64)
    position[index] = np.arange(len(index))
    digits = [np.unique(each) for each in np.unravel_index(index, axes)]
    first = [int(each[0]) for each in digits]

    def at(place: list[int]) -> int:
        return int(position[np.ravel_multi_index(place, axes)])

    offset, strides = at(first), list[tuple[int, int]]()
    for k, (count, used) in enumerate(zip(axes, digits, strict=True)):
        if len(used) == 1:
            strides.append((count, 0))
            continue
        step, stride = int(used[1] - used[0]), at([*first[:k], int(used[1]), *first[k + 1 :]]) - at(first)
        strides += [(count, stride)] if step == 1 else [(count // step, stride), (step, 0)]
        offset -= first[k] * stride if step == 1 else 0
    ends = [stride * (count - 1) for count, stride in strides]
    before = max(0, -(offset + sum(end for end in ends if end < 0)))
    behind = max(0, offset + sum(end for end in ends if end > 0) - (len(index) - 1))
    view = View(tuple(strides), offset + before)
    is_whole = view.width == len(position) and np.array_equal(view.index[index], np.arange(len(index)) + before)
    return (before, behind), view if is_whole else None
