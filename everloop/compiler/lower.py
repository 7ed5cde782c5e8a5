"""Rewrites operations that a target does not have into those it has."""

from __future__ import annotations

from everloop.compiler.expression import Expression
from everloop.compiler.ir import Builder, Value
from everloop.compiler.operations import OPERATIONS
from everloop.compiler.rewrite import same


def lower(builder: Builder, value: Value, args: tuple[Value, ...]) -> Value:
    """Return `value` of `args`, made of core operations."""
    is_made = value.kind == "map" and value.op != "cast"
    return _made(builder, value.op, *args) if is_made else same(builder, value, args)


def _made(builder: Builder, op: str, *args: Value | float) -> Value:
    """Return an element-wise operation, made of core operations."""
    values = [builder.lift(a) for a in args]
    lowering = OPERATIONS[op].lowering
    if lowering is None:
        return builder.make(op, *values)
    lowered: Value = lowering(*(Expression(lambda op, *args: _made(builder, op, *args), v) for v in values)).value
    return lowered
