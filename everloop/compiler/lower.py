"""Rewrites operations that a target does not have into those it has."""

from __future__ import annotations

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
    """base ** exponent: a negative base has a power only for a whole exponent."""
    size = b.exp(b.mul(exponent, b.log(b.abs(base))))
    size = b.where(b.equal(exponent, 0.0), 1.0, size)
    half = b.mul(exponent, 0.5)
    is_even, is_whole = b.equal(b.floor(half), half), b.equal(b.floor(exponent), exponent)
    undefined = b.div(b.sub(size, size), 0.0)
    negative = b.where(is_even, size, b.where(is_whole, b.neg(size), undefined))
    return b.make("where", b.less(base, 0.0), negative, size)
