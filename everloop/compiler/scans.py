"""Sums and products of all places of an axis before and with each, and of all of them."""

from __future__ import annotations

import math
from typing import Any

from everloop.compiler.features import feature_axis
from everloop.compiler.ir import Type
from everloop.compiler.shapes import cat, part, squeeze
from everloop.compiler.symbol import Symbol, elementwise, known

_IN_ORDER = 64  # places of an axis, each product an operation of its own


def _scanned(op: str, start: float, a: Symbol, dim: int) -> Symbol:
    """All before and with each place: in as many operations as the number of places has binary digits."""
    total, shift = a.axes[feature_axis(a, dim, op)], 1
    while shift < total:
        before = _behind(a, dim, shift, total, start)
        a = a.like(a.builder.make(op, a.value, before.value), a.axes)
        shift *= 2
    return a


@known("cumsum")
def cumsum(a: Symbol, dim: int, *, dtype: Any = None) -> Symbol:
    return _scanned("add", 0.0, a, dim)


@known("cumprod")
def cumprod(a: Symbol, dim: int, *, dtype: Any = None) -> Symbol:
    """In PyTorch's order: in another, two numbers may overflow before they meet the 0 before them."""
    total = a.axes[feature_axis(a, dim, "cumprod")]
    if total > _IN_ORDER:
        return _scanned("mul", 1.0, a, dim)
    parts = [part(a, dim, k, k + 1) for k in range(total)]
    for k in range(1, total):
        parts[k] = elementwise("mul", parts[k - 1], parts[k])
    return cat(parts, dim) if parts else a


@known("prod")
def prod(a: Symbol, dim: int, keepdim: bool = False, *, dtype: Any = None) -> Symbol:
    """Products of halves of the places, until one is left."""
    feature_axis(a, dim, "prod")
    while (total := a.shape[dim]) > 1:
        half = total // 2
        both = elementwise("mul", part(a, dim, 0, half), part(a, dim, half, 2 * half))
        a = cat([both, part(a, dim, 2 * half, total)], dim) if total % 2 else both
    return a if keepdim else squeeze(a, dim)


def _behind(a: Symbol, dim: int, shift: int, total: int, number: float) -> Symbol:
    """The places of an axis moved back by some, with a number before them."""
    head = part(a, dim, 0, shift)
    filled = head.like(head.builder.constant(number, Type((math.prod(head.axes),), rows=True)), head.axes)
    return cat([filled, part(a, dim, 0, total - shift)], dim)
