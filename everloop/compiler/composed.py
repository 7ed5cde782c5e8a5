"""What PyTorch's functions that are several in one do to symbols: gated units, padding, differences, attention."""

from __future__ import annotations

import math
from typing import Any

import torch

from everloop.compiler.contractions import matmul
from everloop.compiler.features import amax, feature_axis, layer_norm, sum_
from everloop.compiler.functions import add, sub, where
from everloop.compiler.ir import Type
from everloop.compiler.locations import unsupported
from everloop.compiler.shapes import cat, part, transpose, unsqueeze
from everloop.compiler.symbol import Symbol, elementwise, known, symbol_of


@known("glu")
def glu(a: Symbol, dim: int = -1) -> Symbol:
    total = a.axes[feature_axis(a, dim, "glu")]
    if total % 2:
        raise ValueError(f"{total} features have no halves")
    gate = elementwise("sigmoid", part(a, dim, total // 2, total))
    return elementwise("mul", part(a, dim, 0, total // 2), gate)


@known("dropout")
def dropout(a: Symbol, p: float = 0.5, training: bool = True, inplace: bool = False) -> Symbol:
    return _refuse_chance(a) if training and p else a


@known("randn_like", "rand_like", "normal", "bernoulli", "poisson", "multinomial")
def _refuse_chance(a: Symbol, *args: Any, **kwargs: Any) -> Symbol:
    raise unsupported("random numbers that a step draws; declare noise(H) or mask(H, p=0.1), which the layer draws")


@known("diff", integers="sum")
def diff(a: Symbol, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Symbol:
    if prepend is not None or append is not None:
        raise unsupported("diff with prepend or append; write torch.cat before it")
    for _ in range(n):
        total = a.axes[feature_axis(a, dim, "diff")]
        a = sub(part(a, dim, 1, total), part(a, dim, 0, max(total - 1, 0)))
    return a


@known("pad", integers="choice")
def pad(a: Symbol, pad: Any, mode: str = "constant", value: float | None = None) -> Symbol:
    """Numbers before and behind the places of the last axes, from the last on; less than 0 of them cut places off."""
    if mode != "constant":
        raise unsupported(f"pad in the mode {mode!r}; write torch.cat of the parts, or an index that is fixed")
    for k, (before, behind) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        dim = -1 - k
        total = a.axes[feature_axis(a, dim, "pad")]
        inside = part(a, dim, max(-before, 0), total + min(behind, 0))
        sides = [_filled(inside, dim, max(n, 0), value or 0.0) for n in (before, behind)]
        a = cat([side for side in (sides[0], inside, sides[1]) if side is not None], dim)
    return a


def _filled(a: Symbol, dim: int, count: int, value: float) -> Symbol | None:
    """Return one number in `count` places of an axis beside those of `a`."""
    if not count:
        return None
    axes = [*a.axes]
    axes[dim] = count
    return a.like(a.builder.constant(float(value), Type((math.prod(axes),), rows=True)), tuple(axes))


@known("group_norm")
def group_norm(a: Symbol, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Symbol:
    """Of the first axis in groups; all axes behind it belong to their group."""
    if not a.rows or a.axes[0] % num_groups:
        raise ValueError(f"{list(a.shape)} has no {num_groups} equal groups of channels")
    size = a.value.width // num_groups
    normal = layer_norm(a.like(a.value, (num_groups, size)), (size,), eps=eps)
    weight, bias = (_by_channel(each, len(a.axes)) for each in (weight, bias))
    normal = a.like(normal.value, a.axes)
    normal = normal if weight is None else elementwise("mul", normal, weight)
    return normal if bias is None else add(normal, bias)


def _by_channel(vector: Any, rank: int) -> Any:
    """Return fixed numbers of channels, the first of `rank` axes."""
    return vector if vector is None or rank == 1 else vector.reshape(-1, *[1] * (rank - 1))


@known("tril", integers="move")
def tril(a: Symbol, diagonal: int = 0) -> Symbol:
    return where(_plane(a).tril(diagonal), a, 0.0)


@known("triu", integers="move")
def triu(a: Symbol, diagonal: int = 0) -> Symbol:
    return where(_plane(a).triu(diagonal), a, 0.0)


def _plane(a: Symbol) -> torch.Tensor:
    if not a.rows or len(a.axes) < 2:
        raise ValueError(f"a value of shape {list(a.shape)} is no matrix for each sequence")
    return torch.ones(a.axes[-2:], dtype=a.float_dtype)


@known("diag_embed", integers="move")
def diag_embed(a: Symbol, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Symbol:
    if (offset, dim1, dim2) != (0, -2, -1):
        raise unsupported("diag_embed of another diagonal or other axes than the last")
    total = a.axes[feature_axis(a, -1, "diag_embed")]
    return where(torch.eye(total, dtype=a.float_dtype), unsqueeze(a, -1), 0.0)


@known("index_add", integers="sum")
def index_add(a: Symbol, dim: int, index: Any, source: Any, *, alpha: float = 1) -> Symbol:
    """Places of a source added to those of an axis that a fixed list names for each."""
    total, places = a.axes[feature_axis(a, dim, "index_add")], [int(k) for k in index]
    if max(total, len(places)) > 128 or not (isinstance(source, Symbol) and source.rows):
        raise unsupported("index_add of more than 128 places, or of fixed values")
    if not all(0 <= k < total for k in places) or source.axes[feature_axis(source, dim, "")] != len(places):
        raise IndexError(f"{len(places)} places for {list(source.shape)} along an axis of {total}")
    parts = [part(a, dim, k, k + 1) for k in range(total)]
    for n, k in enumerate(places):
        parts[k] = add(parts[k], part(source, dim, n, n + 1), alpha=alpha)
    return cat(parts, dim)


@known("scaled_dot_product_attention")
def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Symbol:
    """Means of values, weighted by how well their keys fit; where a mask leaves no key, 0, as PyTorch has it."""
    if dropout_p or is_causal or enable_gqa:
        raise unsupported("scaled_dot_product_attention with dropout, is_causal or enable_gqa; leave these out")
    like = next(t for t in (query, key, value) if isinstance(t, Symbol))
    q, k = symbol_of(query, like), symbol_of(key, like)
    scores = elementwise("mul", matmul(q, transpose(k, -1, -2)), scale or 1 / math.sqrt(max(q.shape[-1], 1)))
    if attn_mask is not None:
        is_mask = attn_mask.dtype == torch.bool
        scores = where(attn_mask, scores, -math.inf) if is_mask else add(scores, attn_mask)
    top = elementwise("stop", amax(scores, -1, keepdim=True))
    top = where(elementwise("equal", top, -math.inf), 0.0, top)
    e = elementwise("exp", sub(scores, top))
    total = sum_(e, -1, keepdim=True)
    return matmul(elementwise("div", e, where(elementwise("equal", total, 0.0), 1.0, total)), value)
