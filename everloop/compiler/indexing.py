"""What PyTorch's indices do to symbols: slices, places and fixed lists of them."""

from __future__ import annotations

from typing import Any

import torch

from everloop.compiler.features import feature_axis
from everloop.compiler.locations import unsupported
from everloop.compiler.shapes import cat, part, select, unsqueeze
from everloop.compiler.symbol import BatchSize, Symbol, known


@known("getitem", integers="move", is_view=True)
def getitem(a: Symbol, index: Any) -> Symbol:
    index = whole_index(index, a.ndim)
    if sum(i is not None for i in index) > a.ndim:
        raise IndexError(f"an index of {len(index)} axes of {a.ndim}")
    if sum(isinstance(i, list | range | torch.Tensor) for i in index) > 1:
        raise unsupported("an index of several lists; index one axis after the other")
    result, axis = a, 0
    for i in index:
        if isinstance(i, slice):
            if i != slice(None):
                result = part(result, axis, *bounds(i, result.shape[axis]))
            axis += 1
        elif i is None and a.rows:
            result, axis = unsqueeze(result, axis), axis + 1
        elif isinstance(i, int) and not isinstance(i, bool) and a.rows:
            result = select(result, axis, i)
        elif isinstance(i, list | range | torch.Tensor) and a.rows:
            result, axis = index_select(result, axis, _numbers(i)), axis + 1
        elif isinstance(i, Symbol):
            _refuse_gather(a)
        else:
            raise unsupported(f"the index {i!r} of a {a.value.type.kind}")
    return result


def _numbers(i: Any) -> Any:
    """Return the places where a fixed mask is true; other indices as they are."""
    is_mask = i.dtype == torch.bool if isinstance(i, torch.Tensor) else all(isinstance(k, bool) for k in i)
    return torch.as_tensor(i).nonzero().flatten() if is_mask and len(i) else i


def bounds(i: slice, total: Any) -> tuple[Any, ...]:
    if isinstance(total, BatchSize):
        raise unsupported("a slice along dimension 0, the batch, whose sequences do not mix")
    return i.indices(total)


def whole_index(index: Any, ndim: int) -> list[Any]:
    """Return an index for each axis, where `...` and missing ones mean all places."""
    found = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis not in [i for i in found if not isinstance(i, Symbol | torch.Tensor)]:
        found.append(Ellipsis)
    at = found.index(Ellipsis)
    found[at : at + 1] = [slice(None)] * (ndim - sum(i is not None for i in found) + 1)
    return found


@known("index_select", integers="move")
def index_select(a: Symbol, dim: int, index: Any) -> Symbol:
    """The places of an axis that a fixed list names, in its order."""
    axis = feature_axis(a, dim, "an index")
    places = index.tolist() if isinstance(index, torch.Tensor) else list(index)
    if not places or not all(isinstance(k, int) and not isinstance(k, bool) for k in places):
        raise unsupported(f"the index {index!r}; a list or tensor of integers with one axis can be")
    total, runs = a.axes[axis], list[list[int]]()
    if not all(-total <= k < total for k in places):
        raise IndexError(f"an index beyond the {total} places of its axis")
    for k in (k % total for k in places):
        if runs and runs[-1][1] == k:
            runs[-1][1] = k + 1
        else:
            runs.append([k, k + 1])
    if len(runs) > 128:
        raise unsupported(f"an index of {len(runs)} parts that do not lie side by side; at most 128 are compiled")
    return cat([part(a, dim, *run) for run in runs], dim)


@known("gather", "take_along_dim", "scatter", integers="choice")
def _refuse_gather(a: Symbol, *args: Any, **kwargs: Any) -> Symbol:
    raise unsupported("an index that a step computes; write a product with torch.nn.functional.one_hot or torch.where")
