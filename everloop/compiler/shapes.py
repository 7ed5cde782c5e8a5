"""What PyTorch's functions of shape do to symbols: slices, concatenations, other axes for the same features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from everloop.compiler.features import feature_axis
from everloop.compiler.ir import Type, Value
from everloop.compiler.locations import unsupported
from everloop.compiler.symbol import BatchSize, Symbol, elementwise, known, spread, symbol_of, value_of, viewed
from everloop.compiler.view import View, contiguous


# Parts
def part(a: Symbol, dim: int, start: int, stop: int, step: int = 1) -> Symbol:
    """Return the slice start:stop:step along an axis of features, or along the rows of a matrix."""
    total = a.shape[dim]
    if isinstance(total, BatchSize):
        raise unsupported("a slice along dimension 0, the batch, whose sequences do not mix")
    start, stop, step = slice(start, stop, step).indices(total)
    stop = max(start, stop)
    if not a.rows and a.value.type.kind == "matrix" and dim in (0, -2) and step == 1:
        return a if (start, stop) == (0, total) else a.like(a.builder.make("block", a.value, data=(start, stop)))
    if not a.rows:
        if dim not in (-1, a.ndim - 1) or step != 1:
            raise unsupported(f"a slice along dimension {dim} of a {a.value.type.kind}")
        return a.like(a.builder.slice(a.value, start, stop))
    axis, length = feature_axis(a, dim, "a slice"), len(range(start, stop, step))
    axes = (*a.axes[:axis], length, *a.axes[axis + 1 :])
    inner = contiguous(a.axes)
    if step == 1 and math.prod(a.axes[:axis]) == 1:
        return a.like(a.builder.slice(a.value, start * inner[axis], stop * inner[axis]), axes)
    steps = (*inner[:axis], step * inner[axis], *inner[axis + 1 :])
    return viewed(a, axes, View(tuple(zip(axes, steps, strict=True)), start * inner[axis]))


@known("narrow", integers="move", is_view=True)
def narrow(a: Symbol, dim: int, start: int, length: int) -> Symbol:
    total = a.shape[dim]
    if isinstance(total, int):
        start += total if start < 0 else 0
        if not 0 <= start <= start + length <= total:
            raise ValueError(f"{length} features from {start} on, of {total}")
    return part(a, dim, start, start + length)


@known("split", "split_with_sizes", integers="move", is_view=True)
def split(a: Symbol, split_size_or_sections: Any, dim: int = 0) -> tuple[Symbol, ...]:
    if a.rows:
        feature_axis(a, dim, "split")
    total, sizes = a.shape[dim], split_size_or_sections
    if isinstance(sizes, int):
        sizes = [min(sizes, total - start) for start in range(0, total, sizes)]
    if sum(sizes) != total:
        raise ValueError(f"sections {list(sizes)} of {total} features")
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    return tuple(part(a, dim, start, start + n) for start, n in zip(starts, sizes, strict=True))


@known("chunk", integers="move", is_view=True)
def chunk(a: Symbol, chunks: int, dim: int = 0) -> tuple[Symbol, ...]:
    if a.rows:
        feature_axis(a, dim, "chunk")
    return split(a, max(-(-a.shape[dim] // chunks), 1), dim)


known("tensor_split", integers="move", is_view=True)(lambda a, n, dim=0: split(a, _sections(a.shape[dim], n), dim))


def _sections(total: int, n: int) -> list[int]:
    return [total // n + (k < total % n) for k in range(n)]


@known("select", integers="move", is_view=True)
def select(a: Symbol, dim: int, index: int) -> Symbol:
    """One place of an axis, which goes."""
    axis = feature_axis(a, dim, "the index")
    total = a.axes[axis]
    if not -total <= index < total:
        raise IndexError(f"feature {index} of {total}")
    found = part(a, dim, index % total, index % total + 1)
    return a.like(found.value, (*a.axes[:axis], *a.axes[axis + 1 :]))


@known("unbind", integers="move", is_view=True)
def unbind(a: Symbol, dim: int = 0) -> tuple[Symbol, ...]:
    axis = feature_axis(a, dim, "unbind")
    return tuple(select(a, dim, k) for k in range(a.axes[axis]))


@known("roll", integers="move")
def roll(a: Symbol, shifts: Any, dims: Any = None) -> Symbol:
    if isinstance(shifts, tuple | list):
        if not isinstance(dims, tuple | list) or len(shifts) != len(dims):
            raise unsupported("roll without one dimension for each shift")
        for shift, dim in zip(shifts, dims, strict=True):
            a = roll(a, shift, dim)
        return a
    dim = dims[0] if isinstance(dims, tuple | list) and len(dims) == 1 else dims
    total = a.axes[feature_axis(a, dim, "roll")]
    at = -shifts % total if total else 0
    return cat([part(a, dim, at, total), part(a, dim, 0, at)], dim) if at else a.like(a.value, a.axes)


@known("flip", integers="move")
def flip(a: Symbol, *axes: Any, dims: Any = None) -> Symbol:
    over = {feature_axis(a, d, "flip") for d in _listed(axes, dims)}
    inner = contiguous(a.axes)
    axes = tuple((n, -inner[k] if k in over else inner[k]) for k, n in enumerate(a.axes))
    return viewed(a, a.axes, View(axes, sum((a.axes[k] - 1) * inner[k] for k in over)))


# Other axes
def _listed(sizes: tuple[Any, ...], by_name: Any = None) -> list[Any]:
    """Return sizes given one by one, as one sequence, or as one by its name."""
    sizes = sizes if by_name is None else (*sizes, by_name)
    return list(sizes[0] if len(sizes) == 1 and isinstance(sizes[0], Sequence) else sizes)


@known("reshape", "view", integers="move", is_view=True)
def reshape(a: Symbol, *sizes: Any, shape: Any = None) -> Symbol:
    wanted = _listed(sizes, shape)
    if not a.rows or not wanted or any(not isinstance(n, BatchSize | int) for n in wanted):
        raise unsupported(f"a view of a {a.value.type.kind} as {tuple(wanted)}")
    features = wanted[1:]
    is_apart = isinstance(wanted[0], BatchSize) or (wanted[0] == -1 and math.prod(features) == a.value.width)
    if not is_apart:
        raise unsupported(
            f"a view as {wanted}, which mixes the batch with features; keep the batch first, as in "
            "x.view(x.shape[0], heads, -1) or x.unflatten(-1, (heads, -1))"
        )
    return a.like(a.value, _without_rest(features, a.value.width))


def _without_rest(shape: Sequence[Any], width: int) -> tuple[int, ...]:
    """Return a shape with -1 replaced, of as many features."""
    if any(isinstance(n, BatchSize) for n in shape) or list(shape).count(-1) > 1:
        raise unsupported(f"a view of {width} features as {tuple(shape)}")
    known_ = math.prod(n for n in shape if n != -1)
    found = tuple(width // max(known_, 1) if n == -1 else n for n in shape)
    if math.prod(found) != width:
        raise ValueError(f"{width} features do not fit into {tuple(shape)}")
    return found


known("view_as", "reshape_as", integers="move", is_view=True)(lambda a, other: reshape(a, *other.shape))


@known("flatten", integers="move", is_view=True)
def flatten(a: Symbol, start_dim: int = 0, end_dim: int = -1) -> Symbol:
    first, last = feature_axis(a, start_dim, "flatten"), feature_axis(a, end_dim, "flatten")
    return a.like(a.value, (*a.axes[:first], math.prod(a.axes[first : last + 1]), *a.axes[last + 1 :]))


@known("unflatten", integers="move", is_view=True)
def unflatten(a: Symbol, dim: int, sizes: Any) -> Symbol:
    axis = feature_axis(a, dim, "unflatten")
    return a.like(a.value, (*a.axes[:axis], *_without_rest(sizes, a.axes[axis]), *a.axes[axis + 1 :]))


@known("unsqueeze", integers="move", is_view=True)
def unsqueeze(a: Symbol, dim: int) -> Symbol:
    place = dim % (a.ndim + 1)
    if not a.rows or place < 1:
        raise unsupported(f"unsqueeze along {dim} of a {a.value.type.kind}; the batch stays first")
    return a.like(a.value, (*a.axes[: place - 1], 1, *a.axes[place - 1 :]))


@known("squeeze", integers="move", is_view=True)
def squeeze(a: Symbol, dim: Any = None) -> Symbol:
    if dim is None:
        raise unsupported("squeeze of all axes, which takes the batch where it is one; name the dimension")
    over = {feature_axis(a, d, "squeeze") for d in (dim if isinstance(dim, tuple | list) else (dim,))}
    return a.like(a.value, tuple(n for k, n in enumerate(a.axes) if k not in over or n != 1))


@known("expand", integers="move", is_view=True)
def expand(a: Symbol, *sizes: Any, size: Any = None) -> Symbol:
    wanted = _listed(sizes, size)
    if not a.rows:
        return _expanded_fixed(a, wanted)
    if len(wanted) != a.ndim or not (isinstance(wanted[0], BatchSize) or wanted[0] == -1):
        raise unsupported(f"expand of {list(a.shape)} to {wanted}")
    axes = tuple(own if n == -1 else n for n, own in zip(wanted[1:], a.axes, strict=True))
    if any(own not in (1, n) for n, own in zip(axes, a.axes, strict=True)):
        raise ValueError(f"{list(a.axes)} features cannot expand to {list(axes)}")
    steps = (0 if own != n else step for n, own, step in zip(axes, a.axes, contiguous(a.axes), strict=True))
    return viewed(a, axes, View(tuple(zip(axes, steps, strict=True))))


known("broadcast_to", integers="move", is_view=True)(lambda a, size: expand(a, size))


def _expanded_fixed(a: Symbol, wanted: list[Any]) -> Symbol:
    """Fixed numbers for every row."""
    if not isinstance(wanted[0], BatchSize) or len(wanted) <= a.ndim - (a.ndim > 0 and a.shape[0] == 1):
        raise unsupported(f"expand of {list(a.shape)} to {wanted}")
    own = [1] * (len(wanted) - a.ndim) + list(a.shape)
    axes = tuple(n if size == -1 else size for n, size in zip(own[1:], wanted[1:], strict=True))
    zeros = a.builder.constant(0.0, Type((math.prod(axes),), rows=True))
    return elementwise("add", a, a.like(zeros, axes))


known("expand_as", integers="move", is_view=True)(lambda a, other: expand(a, *other.shape))


@known("repeat_interleave", integers="move")
def repeat_interleave(a: Symbol, repeats: int, dim: int | None = None) -> Symbol:
    if not isinstance(repeats, int):
        raise unsupported("repeat_interleave by a tensor")
    axis = feature_axis(a, dim, "repeat_interleave")
    wide = unsqueeze(a, axis + 2)
    axes = (*a.axes[: axis + 1], repeats, *a.axes[axis + 1 :])
    return flatten(expand(wide, -1, *axes), axis + 1, axis + 2)


@known("repeat", integers="move")
def repeat(a: Symbol, *repeats: Any) -> Symbol:
    times = _listed(repeats)
    if not a.rows and isinstance(times[0], BatchSize):  # for every row
        a, times = _expanded_fixed(a, [times[0], *[-1] * (len(times) - 1)]), [1, *times[1:]]
    if not a.rows or len(times) != a.ndim or times[0] != 1 or not all(isinstance(n, int) for n in times):
        raise unsupported(f"repeat {times} of {a.ndim} axes; the batch is first and stays as it is")
    for dim, n in enumerate(times[1:], start=1):
        if n != 1:
            a = cat([a] * n, dim)
    return a


@known("transpose_copy")
@known("t", "transpose", "swapaxes", "swapdims", "adjoint", is_view=True)
def transpose(a: Symbol, *axes: int) -> Symbol:
    if a.rows:
        dims = list(range(a.ndim))
        first, second = (d % a.ndim for d in (axes or (-1, -2)))
        dims[first], dims[second] = dims[second], dims[first]
        return permute(a, dims)
    if a.value.type.kind == "vector" and not axes:
        return a
    if a.value.type.kind != "matrix" or (axes and {n % 2 for n in axes} != {0, 1}):
        raise unsupported(f"the transpose of a {a.value.type.kind}")
    return a.like(a.builder.make("transpose", a.value))


@known("diagonal", integers="move", is_view=True)
def diagonal(a: Symbol, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Symbol:
    """The places that two axes have in common, as the last axis."""
    row, column = (feature_axis(a, d, "diagonal") for d in (dim1, dim2))
    inner = contiguous(a.axes)
    length = max(min(a.axes[row] + min(offset, 0), a.axes[column] - max(offset, 0)), 0)
    start = max(offset, 0) * inner[column] + max(-offset, 0) * inner[row]
    left = [(n, step) for k, (n, step) in enumerate(zip(a.axes, inner, strict=True)) if k not in (row, column)]
    axes = (*left, (length, inner[row] + inner[column]))
    return viewed(a, tuple(n for n, _ in axes), View(tuple(axes), start if length else 0))


@known("permute", integers="move", is_view=True)
def permute(a: Symbol, *axes: Any, dims: Any = None) -> Symbol:
    order, advice = [d % a.ndim for d in _listed(axes, dims)], "; write h @ W.T, not (W @ h.T).T" * (a.ndim == 2)
    if not a.rows or sorted(order) != list(range(a.ndim)) or order[0] != 0:
        raise unsupported(f"the axes of a {a.value.type.kind} in the order {order}; the batch stays first{advice}")
    inner = contiguous(a.axes)
    found = tuple((a.axes[d - 1], inner[d - 1]) for d in order[1:])
    return viewed(a, tuple(n for n, _ in found), View(found))


@known("unfold", integers="move", is_view=True)
def unfold(a: Symbol, dimension: int, size: int, step: int) -> Symbol:
    """Windows of an axis, whose places become the last axis."""
    axis = feature_axis(a, dimension, "unfold")
    if not 1 <= size <= a.axes[axis] or step < 1:
        raise ValueError(f"windows of {size} by {step} of {a.axes[axis]} places")
    found = list(zip(a.axes, contiguous(a.axes), strict=True))
    total, stride = found[axis]
    found[axis] = ((total - size) // step + 1, step * stride)
    found.append((size, stride))
    return viewed(a, tuple(n for n, _ in found), View(tuple(found)))


known("movedim", "moveaxis", integers="move", is_view=True)(
    lambda a, source, destination: _moved(a, source, destination)
)


def _moved(a: Symbol, source: int, destination: int) -> Symbol:
    order = [d for d in range(a.ndim) if d != source % a.ndim]
    order.insert(destination % a.ndim, source % a.ndim)
    return permute(a, order)


# Joined
@known("cat", "concat", "concatenate", integers="choice")
def cat(tensors: Sequence[Any], dim: int = 0, *, axis: int | None = None) -> Symbol:
    dim = dim if axis is None else axis
    like = next(t for t in tensors if isinstance(t, Symbol))
    values = [value_of(t, like) for t in tensors]
    if not any(v.type.rows for v in values):
        if all(len(v.type.shape) == 2 for v in values) and dim in (0, -2):
            return like.like(like.builder.make("stack", *values))
        return like.like(like.builder.make("cat", *values))
    rows = next(t for t in tensors if isinstance(t, Symbol) and t.rows)
    at = feature_axis(rows, dim, "cat")
    if len(rows.axes) == 1:
        return _joined_vectors(rows, tensors)
    symbols = [symbol_of(t, like) for t in tensors]
    if any(not s.rows or len(s.axes) != len(rows.axes) for s in symbols):
        raise unsupported("cat of rows and fixed values along several axes; expand the fixed values to rows first")
    axes = (*rows.axes[:at], sum(s.axes[at] for s in symbols), *rows.axes[at + 1 :])
    if any((*s.axes[:at], *s.axes[at + 1 :]) != (*axes[:at], *axes[at + 1 :]) for s in symbols):
        raise ValueError(f"{[list(s.axes) for s in symbols]} do not fit along dimension {dim}")
    return rows.like(_joined(symbols, at, axes), axes)


def _joined_vectors(rows: Symbol, tensors: Sequence[Any]) -> Symbol:
    symbols = [symbol_of(t, rows) for t in tensors]
    if any(len(s.axes) != 1 for s in symbols if s.rows):
        raise unsupported("cat of rows with different numbers of axes")
    return rows.like(rows.builder.make("cat", *(s.value for s in symbols)))


def _joined(symbols: list[Symbol], at: int, axes: tuple[int, ...]) -> Value:
    """Rows side by side along an axis: of equal ones a view of them one behind the other, else piece by piece."""
    builder, outer, inner = symbols[0].builder, math.prod(axes[:at]), math.prod(axes[at + 1 :])
    values = [spread(s, math.prod(s.axes)) for s in symbols]
    sizes = [s.axes[at] for s in symbols]
    if outer == 1:
        return builder.make("cat", *values)
    if len(set(sizes)) == 1 and sizes[0]:
        n = sizes[0] * inner
        behind = builder.make("cat", *values)
        return builder.view(behind, View(((outer, n), (len(sizes), outer * n), (n, 1))))
    pieces = [builder.slice(v, o * n * inner, (o + 1) * n * inner)
              for o in range(outer) for v, n in zip(values, sizes, strict=True) if n]  # fmt: skip
    return builder.make("cat", *pieces)


known("hstack", integers="choice")(lambda tensors: cat(tensors, 1))


@known("stack", integers="choice")
def stack(tensors: Sequence[Any], dim: int = 0) -> Symbol:
    if not all(isinstance(t, Symbol) and t.rows for t in tensors):
        raise unsupported("stack of fixed values; expand them to rows first")
    return cat([unsqueeze(t, dim) for t in tensors], dim)
