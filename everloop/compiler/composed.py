"""What PyTorch's functions that are several in one do to symbols: gated units, padding, differences, attention."""

from __future__ import annotations

import math
from typing import Any

import torch

from everloop.compiler.contractions import matmul
from everloop.compiler.features import amax, feature_axis, sum_
from everloop.compiler.functions import add, sub, where
from everloop.compiler.ir import Type
from everloop.compiler.locations import unsupported
from everloop.compiler.shapes import cat, part, transpose
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


def _extreme(name: str) -> Any:
    def of(a: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Symbol:
        second = dim if other is None else other
        if not isinstance(second, Symbol | torch.Tensor):
            raise unsupported(f"{name} of one value, which along a dimension also gives places; write a{name}")
        return elementwise(f"{name}imum", a, second)

    return of


known("max", integers="choice")(_extreme("max"))
known("min", integers="choice")(_extreme("min"))


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
