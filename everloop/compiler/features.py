"""What PyTorch's reductions over features do to symbols: sums, extremes, softmax, normalisations."""

from __future__ import annotations

import math
from typing import Any

import torch

from everloop.compiler.functions import add, sub, where
from everloop.compiler.ir import Type
from everloop.compiler.locations import unsupported
from everloop.compiler.symbol import Symbol, elementwise, known, spread_to, symbol_of
from everloop.compiler.view import View, contiguous

BATCH_STATISTICS = "normalisation over a batch, which mixes its sequences; take layer normalisation, or call eval()"


def feature_axes(a: Symbol, dim: Any, what: str) -> tuple[int, ...]:
    """Return which of the axes behind the batch `dim` names, in order; None names all."""
    if dim is None and a.rows:
        raise unsupported(f"{what} over all axes, the batch too, whose sequences do not mix; name the dimension, as -1")
    if not a.rows:
        raise unsupported(f"{what} along dimension {dim} of a {a.value.type.kind}; only features (-1) can be")
    dims = dim if isinstance(dim, tuple | list) else (dim,)
    if not all(isinstance(d, int) and -a.ndim <= d < a.ndim for d in dims):
        raise unsupported(f"{what} along dimension {dim} of {a.ndim} axes")
    found = sorted(d % a.ndim - 1 for d in dims)
    if not found or found[0] < 0:
        raise unsupported(f"{what} along dimension 0, the batch, whose sequences do not mix; only features (-1) can be")
    return tuple(found)


def feature_axis(a: Symbol, dim: Any, what: str) -> int:
    """Return which of the axes behind the batch `dim` names."""
    return feature_axes(a, dim if dim is None else (dim,), what)[0]


def _reduced(op: str, a: Symbol, dim: Any, keepdim: bool) -> Symbol:
    """Return the sum or maximum over some axes."""
    over = feature_axes(a, dim, op)
    kept = tuple(1 if k in over else n for k, n in enumerate(a.axes))
    left = kept if keepdim else tuple(n for k, n in enumerate(a.axes) if k not in over)
    inner = contiguous(kept)
    view = View(tuple((n, 0 if k in over else inner[k]) for k, n in enumerate(a.axes)))
    if a.value.width == 0:
        return a.like(a.builder.constant(0.0, Type((math.prod(left),), rows=True)), left)
    if math.prod(kept) == a.value.width:
        return a.like(a.value, left)
    return a.like(a.builder.reduce(op, a.value, math.prod(kept), view), left)


def count(a: Symbol, dim: Any) -> int:
    """Return how many numbers meet in a reduction over some axes."""
    return math.prod(a.axes[k] for k in feature_axes(a, dim, "a mean"))


@known("sum", integers="total")
def sum_(a: Symbol, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Symbol:
    return _reduced("sum", a, dim, keepdim)


@known("mean")
def mean(a: Symbol, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Symbol:
    return elementwise("mul", sum_(a, dim, keepdim), 1.0 / count(a, dim))


@known("amax", integers="move")
def amax(a: Symbol, dim: Any = None, keepdim: bool = False) -> Symbol:
    return _reduced("max", a, dim, keepdim)


@known("amin", integers="move")
def amin(a: Symbol, dim: Any = None, keepdim: bool = False) -> Symbol:
    return elementwise("neg", amax(elementwise("neg", a), dim, keepdim))


@known("any")
def any_(a: Symbol, dim: Any = None, keepdim: bool = False) -> Symbol:
    feature_axes(a, dim, "any")
    return amax(_nonzero(a), dim, keepdim)


@known("all")
def all_(a: Symbol, dim: Any = None, keepdim: bool = False) -> Symbol:
    feature_axes(a, dim, "all")
    return amin(_nonzero(a), dim, keepdim)


def _nonzero(a: Symbol) -> Symbol:
    return a if a.is_mask else sub(1.0, elementwise("equal", a, 0.0))


@known("var")
def var(a: Symbol, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float = 1) -> Symbol:
    near = sub(a, elementwise("stop", amax(a, dim, keepdim=True)))  # 0 in a constant row, whose mean may be rounded
    centred = sub(near, mean(near, dim, keepdim=True))
    squares = sum_(elementwise("mul", centred, centred), dim, keepdim)
    return elementwise("div", squares, max(float(count(a, dim) - (correction if unbiased else 0)), 0.0))


def _kept(a: Symbol, dim: Any, keepdim: bool) -> Symbol:
    """Return what was reduced with keepdim=True with the axes that PyTorch leaves it."""
    over = feature_axes(a, dim, "a reduction")
    return a if keepdim else a.like(a.value, tuple(n for k, n in enumerate(a.axes) if k not in over))


@known("std")
def std(a: Symbol, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float = 1) -> Symbol:
    """Of numbers divided by the size of the largest, whose squares are neither infinite nor all 0."""
    near = sub(a, elementwise("stop", amax(a, dim, keepdim=True)))
    size = elementwise("stop", amax(elementwise("abs", near), dim, keepdim=True))
    size = where(elementwise("equal", size, 0.0), 1.0, size)
    root = elementwise("root", var(elementwise("div", near, size), dim, unbiased, True, correction=correction))
    return _kept(elementwise("mul", root, size), dim, keepdim)


def _beside_mean(of: Any) -> Any:
    def both(a: Symbol, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float = 1) -> Any:
        return of(a, dim, unbiased, keepdim, correction=correction), mean(a, dim, keepdim)

    return both


known("var_mean")(_beside_mean(var))
known("std_mean")(_beside_mean(std))


@known("norm")
def norm(a: Symbol, p: Any = 2, dim: Any = None, keepdim: bool = False, out: Any = None, dtype: Any = None) -> Symbol:
    if out is not None or dtype not in (None, a.float_dtype):
        raise unsupported("the norm with out= or another dtype")
    if p in (2, "fro"):
        return elementwise("root", sum_(elementwise("mul", a, a), dim, keepdim))
    size = elementwise("abs", a)
    if p == 1:
        return sum_(size, dim, keepdim)
    if p in (math.inf, -math.inf):
        return (amax if p > 0 else amin)(size, dim, keepdim)
    if isinstance(p, str) or p < 1:
        raise unsupported(f"the norm of order {p!r}; orders of 1 and more are known")
    total = sum_(elementwise("power", size, p), dim, keepdim)
    is_zero = elementwise("equal", total, 0.0)  # where it has no derivative, for which PyTorch takes 0
    return where(is_zero, 0.0, elementwise("power", where(is_zero, 1.0, total), 1 / p))


@known("linalg_vector_norm")
def vector_norm(
    x: Symbol,
    ord: Any = 2,  # noqa: A002 - as PyTorch names it
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
    out: Any = None,
) -> Symbol:
    if isinstance(ord, str):
        raise TypeError(f"vector_norm takes a number as ord, not {ord!r}")
    return norm(x, ord, dim, keepdim, out, dtype)


@known("linalg_matrix_norm")
def matrix_norm(
    a: Symbol,
    ord: Any = "fro",  # noqa: A002 - as PyTorch names it
    dim: Any = (-2, -1),
    keepdim: bool = False,
    *,
    dtype: Any = None,
    out: Any = None,
) -> Symbol:
    if ord not in ("fro", 1, -1, math.inf, -math.inf):
        raise unsupported(f"the matrix norm of order {ord!r}, which needs singular values; 'fro', 1 and inf are known")
    if ord == "fro":
        return norm(a, 2, dim, keepdim, out, dtype)
    summed, over = dim if abs(ord) == 1 else reversed(dim)
    sums = norm(a, 1, summed, True, out, dtype)
    return _kept((amax if ord > 0 else amin)(sums, over, True), dim, keepdim)


@known("linalg_norm")
def linalg_norm(
    a: Symbol,
    ord: Any = None,  # noqa: A002 - as PyTorch names it
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
    out: Any = None,
) -> Symbol:
    if ord is not None and isinstance(dim, tuple | list) and len(dim) == 2:
        return matrix_norm(a, ord, dim, keepdim, dtype=dtype, out=out)
    return vector_norm(a, 2 if ord is None else ord, dim, keepdim, dtype=dtype, out=out)


@known("normalize")
def normalize(a: Symbol, p: Any = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None) -> Symbol:
    return elementwise("div", a, elementwise("at_least", norm(a, p, dim, True, out), eps))


@known("cosine_similarity")
def cosine_similarity(a: Any, b: Any, dim: int = 1, eps: float = 1e-8) -> Symbol:
    if not all(isinstance(s, Symbol) and s.rows for s in (a, b)):
        raise unsupported("cosine_similarity of a row and fixed values; expand these to the shape of the row")
    axes = tuple(torch.broadcast_shapes(a.axes, b.axes))  # type: ignore[no-untyped-call]
    if len(a.axes) != len(b.axes):
        raise unsupported(f"cosine_similarity of rows with {len(a.axes)} and {len(b.axes)} axes of features")
    directions = [_directed(spread_to(s, s.axes, axes), dim, eps) for s in (a, b)]
    return sum_(elementwise("mul", *directions), dim)


def _directed(a: Symbol, dim: int, eps: float) -> Symbol:
    """Return vectors of length one; a length below `eps` counts as `eps`, with its own gradient, as in PyTorch."""
    size = norm(a, dim=dim, keepdim=True)
    raised = add(sub(size, elementwise("stop", size)), eps)
    return elementwise("div", a, where(elementwise("less", size, eps), raised, size))


def _exponentials(a: Symbol, dim: Any) -> tuple[Symbol, Symbol]:
    shifted = sub(a, elementwise("stop", amax(a, dim, keepdim=True)))
    return shifted, elementwise("exp", shifted)


@known("softmax")
def softmax(a: Symbol, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Symbol:
    _, e = _exponentials(a, dim)
    return elementwise("div", e, sum_(e, dim, keepdim=True))


@known("softmin")
def softmin(a: Symbol, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Symbol:
    return softmax(elementwise("neg", a), dim)


@known("log_softmax")
def log_softmax(a: Symbol, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Symbol:
    shifted, e = _exponentials(a, dim)
    return sub(shifted, elementwise("log", sum_(e, dim, keepdim=True)))


@known("logsumexp")
def logsumexp(a: Symbol, dim: Any, keepdim: bool = False) -> Symbol:
    top = elementwise("stop", amax(a, dim, keepdim=True))
    top = where(elementwise("equal", elementwise("abs", top), math.inf), 0.0, top)
    total = add(elementwise("log", sum_(elementwise("exp", sub(a, top)), dim, keepdim=True)), top)
    return _kept(total, dim, keepdim)


def _affine(a: Symbol, weight: Any, bias: Any) -> Symbol:
    a = a if weight is None else elementwise("mul", a, weight)
    return a if bias is None else add(a, bias)


def _normalised(a: Symbol, shape: Any) -> tuple[int, ...]:
    """Return the dimensions of the last axes, which have this shape."""
    if not a.rows or not tuple(shape) or tuple(shape) != a.axes[-len(shape) :]:
        raise unsupported(f"normalisation over {tuple(shape)} of a {a.value.type}")
    return tuple(range(-len(shape), 0))


@known("layer_norm")
def layer_norm(a: Symbol, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Symbol:
    dims = _normalised(a, normalized_shape)
    centred = sub(a, mean(a, dims, keepdim=True))
    variance = mean(elementwise("mul", centred, centred), dims, keepdim=True)
    return _affine(elementwise("mul", centred, elementwise("rsqrt", add(variance, eps))), weight, bias)


@known("batch_norm")
def batch_norm(
    a: Symbol,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Symbol:
    if training or not a.rows or a.ndim != 2 or running_mean is None or running_var is None:
        raise unsupported(BATCH_STATISTICS)
    factor = elementwise("rsqrt", add(symbol_of(running_var, a), eps))
    return _affine(elementwise("mul", sub(a, running_mean), factor), weight, bias)


@known("rms_norm")
def rms_norm(a: Symbol, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Symbol:
    dims = _normalised(a, normalized_shape)
    eps = torch.finfo(a.float_dtype).eps if eps is None else eps
    squares = mean(elementwise("mul", a, a), dims, keepdim=True)
    return _affine(elementwise("mul", a, elementwise("rsqrt", add(squares, eps))), weight, None)
