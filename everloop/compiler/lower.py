"""Rewrites operations that a target does not have into those it has."""

from __future__ import annotations

import math

from everloop.compiler.ir import Builder, Value
from everloop.compiler.rewrite import same


def lower(builder: Builder, value: Value, args: tuple[Value, ...]) -> Value:
    """Return `value` of `args`, made of core operations."""
    if value.kind != "map" or value.operation.core:
        return same(builder, value, args)
    if value.op == "relu":
        return builder.make("maximum", args[0], builder.constant(0.0))
    if value.op == "root":
        return builder.make("sqrt", args[0])
    if value.op == "stop":
        return args[0]
    if value.op in ("at_least", "at_most"):
        return builder.make("maximum" if value.op == "at_least" else "minimum", *args)
    assert value.op == "power", value.op
    return _power(builder, *args)


def _power(b: Builder, base: Value, exponent: Value) -> Value:
    """base ** exponent, at the edges as C's pow: a finite negative base has a power only for a whole exponent."""
    size = b.exp(b.mul(exponent, b.log(b.abs(base))))
    size = b.where(b.equal(exponent, 0.0), 1.0, b.where(b.equal(base, 1.0), 1.0, size))
    half = b.mul(exponent, 0.5)
    is_even, is_whole = b.equal(b.floor(half), half), b.equal(b.floor(exponent), exponent)
    minus_one = b.where(b.equal(base, -1.0), 1.0, size)  # to an infinite power, which counts as even
    is_edge = b.where(b.equal(base, 0.0), 1.0, b.equal(base, -math.inf))
    other = b.where(is_edge, size, b.div(b.sub(size, size), 0.0))
    negative = b.where(is_even, minus_one, b.where(is_whole, b.neg(size), other))
    has_sign = b.where(b.equal(base, 0.0), b.less(b.div(1.0, base), 0.0), b.less(base, 0.0))
    return b.make("where", has_sign, negative, size)
