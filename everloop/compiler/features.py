"""What PyTorch's functions along features do to symbols: slices, concatenations, reductions, products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from everloop.compiler.functions import add, sub, where
from everloop.compiler.ir import Value
from everloop.compiler.locations import unsupported
from everloop.compiler.symbol import BatchSize, Symbol, elementwise, known, value_of


def _is_last(a: Symbol, dim: int) -> bool:
    return dim in (-1, a.ndim - 1)


def _features(a: Symbol, dim: Any, what: str) -> None:
    if isinstance(dim, tuple | list) and len(dim) == 1:
        dim = dim[0]
    if not isinstance(dim, int) or a.is_flat or not _is_last(a, dim):
        raise unsupported(f"{what} along dimension {dim} of a {a.value.type.kind}; only features (-1) can be")


def part(a: Symbol, dim: int, start: int, stop: int) -> Symbol:
    """Return the slice start:stop along features, or along the rows of a matrix."""
    start, stop, _ = slice(start, stop).indices(a.shape[dim] if not isinstance(a.shape[dim], BatchSize) else 0)
    if a.value.type.kind == "matrix" and dim in (0, -2):
        whole = (start, stop) == (0, a.value.type.shape[0])
        return a if whole else a.like(a.builder.make("block", a.value, data=(start, stop)))
    _features(a, dim, "a slice")
    return a.like(a.builder.slice(a.value, start, max(start, stop)))


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
        _features(a, dim, "split")
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
        _features(a, dim, "chunk")
    return split(a, max(-(-a.shape[dim] // chunks), 1), dim)


known("tensor_split", integers="move", is_view=True)(lambda a, n, dim=0: split(a, _sections(a.shape[dim], n), dim))


def _sections(total: int, n: int) -> list[int]:
    return [total // n + (k < total % n) for k in range(n)]


@known("unbind", integers="move", is_view=True)
def unbind(a: Symbol, dim: int = 0) -> tuple[Symbol, ...]:
    if a.rows:
        _features(a, dim, "unbind")
        return tuple(a.like(part(a, -1, k, k + 1).value, flat=True) for k in range(a.shape[-1]))
    raise unsupported("unbind")


@known("getitem", integers="move", is_view=True)
def getitem(a: Symbol, index: Any) -> Symbol:
    index = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [i for i in index if not isinstance(i, Symbol | torch.Tensor)]:
        at = index.index(Ellipsis)
        named = sum(i is not None for i in index) - 1
        index[at : at + 1] = [slice(None)] * (a.ndim - named)
    if a.is_flat and index in ([slice(None), None],):
        return a.like(a.value)
    result, axis = a, 0
    for i in index:
        if isinstance(i, slice) and i.step in (None, 1):
            if i != slice(None):
                result = part(result, axis, i.start or 0, result.shape[axis] if i.stop is None else i.stop)
            axis += 1
        elif isinstance(i, int) and a.rows and axis == 1 and len(index) == 2 and not a.is_flat:
            if not -a.shape[-1] <= i < a.shape[-1]:
                raise IndexError(f"feature {i} of {a.shape[-1]}")
            i %= a.shape[-1]
            return a.like(part(a, -1, i, i + 1).value, flat=True)
        else:
            raise unsupported(f"the index {i!r} of a {a.value.type.kind}")
    return result


@known("unsqueeze", integers="move", is_view=True)
def unsqueeze(a: Symbol, dim: int) -> Symbol:
    if a.is_flat and dim in (-1, 1):
        return a.like(a.value)
    raise unsupported(f"unsqueeze along {dim} of a {a.value.type.kind}")


@known("squeeze", integers="move", is_view=True)
def squeeze(a: Symbol, dim: int = -1) -> Symbol:
    _features(a, dim, "squeeze")
    return a.like(a.value, flat=True) if a.rows and a.value.width == 1 else a


@known("expand", integers="move", is_view=True)
def expand(a: Symbol, *sizes: Any) -> Symbol:
    wanted = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], Sequence) else sizes
    if a.is_flat or len(wanted) not in (1, 2) or not isinstance(wanted[-1], int):
        raise unsupported("this expand")
    width = a.value.width if wanted[-1] == -1 else wanted[-1]
    if a.value.width not in (1, width):
        raise ValueError(f"{a.value.type} cannot expand to {width} features")
    zeros = a.builder.constant(0.0, type(a.value.type)((width,), a.rows or len(wanted) == 2))
    return a.like(a.builder.make("add", a.value, zeros))


known("expand_as", integers="move", is_view=True)(lambda a, other: expand(a, *other.shape))
known("view_as", "reshape_as", integers="move", is_view=True)(lambda a, other: _same_shape(a, other))


def _same_shape(a: Symbol, other: Any) -> Symbol:
    if tuple(a.shape) != tuple(other.shape):
        raise unsupported("a view of another shape")
    return a


@known("cat", "concat", "concatenate", integers="choice")
def cat(tensors: Sequence[Any], dim: int = 0, *, axis: int | None = None) -> Symbol:
    dim = dim if axis is None else axis
    like = next(t for t in tensors if isinstance(t, Symbol))
    values = [value_of(t, like) for t in tensors]
    if all(len(v.type.shape) == 2 for v in values) and dim in (0, -2):
        return like.like(like.builder.make("stack", *values))
    if any(v.type.rows for v in values):
        if any(isinstance(t, Symbol) and t.is_flat for t in tensors):
            raise unsupported("cat of rows that were reduced with keepdim=False")
        if dim not in (-1, 1):
            raise unsupported(f"cat along dimension {dim}; only features (-1) can be")
    return like.like(like.builder.make("cat", *values))


known("hstack", integers="choice")(lambda tensors: cat(tensors, -1))


@known("stack", integers="choice")
def stack(tensors: Sequence[Any], dim: int = 0) -> Symbol:
    if dim in (-1, 1) and all(isinstance(t, Symbol) and t.is_flat for t in tensors):
        first: Symbol = tensors[0]
        return first.like(first.builder.make("cat", *(t.value for t in tensors)))
    raise unsupported("stack of rows, which has three axes; write torch.cat along features")


def _reduced(a: Symbol, value: Value, keepdim: bool) -> Symbol:
    return a.like(value, flat=a.rows and not keepdim)


@known("sum", integers="total")
def sum_(a: Symbol, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Symbol:
    _features(a, dim, "sum")
    if not a.rows:
        raise unsupported("sum")
    return _reduced(a, a.builder.make("sum", a.value), keepdim)


@known("mean")
def mean(a: Symbol, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Symbol:
    return elementwise("mul", sum_(a, dim, keepdim), 1.0 / a.value.width)


@known("amax", integers="move")
def amax(a: Symbol, dim: Any = None, keepdim: bool = False) -> Symbol:
    _features(a, dim, "amax")
    if not a.rows:
        raise unsupported("amax")
    return _reduced(a, a.builder.make("max", a.value), keepdim)


@known("amin", integers="move")
def amin(a: Symbol, dim: Any = None, keepdim: bool = False) -> Symbol:
    return elementwise("neg", amax(elementwise("neg", a), dim, keepdim))


@known("var")
def var(a: Symbol, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float = 1) -> Symbol:
    near = sub(a, elementwise("stop", amax(a, dim, keepdim=True)))  # 0 in a constant row, whose mean may be rounded
    centred = sub(near, mean(near, dim, keepdim=True))
    squares = sum_(elementwise("mul", centred, centred), dim, keepdim)
    return elementwise("div", squares, max(float(a.value.width - (correction if unbiased else 0)), 0.0))


@known("std")
def std(a: Symbol, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float = 1) -> Symbol:
    """Of numbers divided by the size of the largest, whose squares are neither infinite nor all 0."""
    near = sub(a, elementwise("stop", amax(a, dim, keepdim=True)))
    size = elementwise("stop", amax(elementwise("abs", near), dim, keepdim=True))
    size = where(elementwise("equal", size, 0.0), 1.0, size)
    root = elementwise("root", var(elementwise("div", near, size), dim, unbiased, True, correction=correction))
    return _reduced(a, elementwise("mul", root, size).value, keepdim)


@known("norm", "linalg_vector_norm")
def norm(a: Symbol, p: Any = 2, dim: Any = None, keepdim: bool = False, out: Any = None, dtype: Any = None) -> Symbol:
    if p not in (2, 2.0, "fro") or out is not None or dtype not in (None, a.float_dtype):
        raise unsupported(f"the norm of order {p}" if out is dtype is None else "the norm with out= or another dtype")
    return elementwise("root", sum_(elementwise("mul", a, a), dim, keepdim))


def _exponentials(a: Symbol, dim: Any) -> tuple[Symbol, Symbol]:
    shifted = sub(a, elementwise("stop", amax(a, dim, keepdim=True)))
    return shifted, elementwise("exp", shifted)


@known("softmax")
def softmax(a: Symbol, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Symbol:
    _, e = _exponentials(a, dim)
    return elementwise("div", e, sum_(e, dim, keepdim=True))


@known("log_softmax")
def log_softmax(a: Symbol, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Symbol:
    shifted, e = _exponentials(a, dim)
    return sub(shifted, elementwise("log", sum_(e, dim, keepdim=True)))


@known("logsumexp")
def logsumexp(a: Symbol, dim: Any, keepdim: bool = False) -> Symbol:
    top = elementwise("stop", amax(a, dim, keepdim=True))
    top = where(elementwise("equal", elementwise("abs", top), math.inf), 0.0, top)
    total = add(elementwise("log", sum_(elementwise("exp", sub(a, top)), dim, keepdim=True)), top)
    return _reduced(a, total.value, keepdim)


def _affine(a: Symbol, weight: Any, bias: Any) -> Symbol:
    a = a if weight is None else elementwise("mul", a, weight)
    return a if bias is None else add(a, bias)


def _normalised(a: Symbol, shape: Any) -> None:
    if not a.rows or tuple(shape) != (a.value.width,):
        raise unsupported(f"normalisation over {tuple(shape)} of a {a.value.type}")


@known("layer_norm")
def layer_norm(a: Symbol, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Symbol:
    _normalised(a, normalized_shape)
    centred = sub(a, mean(a, -1, keepdim=True))
    variance = mean(elementwise("mul", centred, centred), -1, keepdim=True)
    return _affine(elementwise("mul", centred, elementwise("rsqrt", add(variance, eps))), weight, bias)


@known("rms_norm")
def rms_norm(a: Symbol, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Symbol:
    _normalised(a, normalized_shape)
    eps = torch.finfo(a.float_dtype).eps if eps is None else eps
    squares = mean(elementwise("mul", a, a), -1, keepdim=True)
    return _affine(elementwise("mul", a, elementwise("rsqrt", add(squares, eps))), weight, None)


@known("transpose_copy")
@known("t", "transpose", "swapaxes", is_view=True)
def transpose(a: Symbol, *axes: int) -> Symbol:
    if a.value.type.kind == "vector" and not axes:
        return a
    if a.value.type.kind != "matrix" or (axes and {n % 2 for n in axes} != {0, 1}):
        raise unsupported(f"the transpose of a {a.value.type.kind}")
    return a.like(a.builder.make("transpose", a.value))


@known("matmul", "mm", has_matrix=True)
def matmul(a: Any, b: Any) -> Symbol:
    like = next(t for t in (a, b) if isinstance(t, Symbol))
    left, right = value_of(a, like), value_of(b, like)
    if left.type.rows and right.type.kind == "vector":
        return sum_(elementwise("mul", a, b), -1)
    if not left.type.rows or right.type.kind != "matrix":
        raise unsupported(f"the product of a {left.type.kind} and a {right.type.kind}; expected a row and a matrix")
    return like.like(like.builder.make("matmul", left, right))


known("rmatmul", has_matrix=True)(lambda a, b: matmul(b, a))
known("mv", has_matrix=True)(lambda a, b: matmul(a, b))


@known("linear", has_matrix=True)
def linear(a: Any, weight: Any, bias: Any = None) -> Symbol:
    like = next(t for t in (a, weight) if isinstance(t, Symbol))
    left, right = value_of(a, like), value_of(weight, like)
    if not left.type.rows or right.type.kind != "matrix":
        raise unsupported(f"linear of a {left.type.kind} and a {right.type.kind}")
    product = like.like(like.builder.make("linear", left, right))
    return product if bias is None else add(product, bias)


@known("addmm", has_matrix=True)
def addmm(bias: Any, a: Any, b: Any) -> Symbol:
    return add(matmul(a, b), bias)
