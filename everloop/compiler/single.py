"""The passes of a single step, compiled on its own: nothing is prepared for a whole sequence."""

from __future__ import annotations

from dataclasses import replace

from everloop.compiler.hoist import Split, split
from everloop.compiler.ir import Builder, Graph, Value
from everloop.compiler.plan import ScheduledForward, forward_of
from everloop.compiler.rewrite import rebuild, same, users
from everloop.compiler.simplify import LOCAL, simplify

INPUT = "the input"


def simplify_single(step: Graph) -> Graph:
    """Return the step with less to do; matrices stay as they are, since joined ones would be made at every step."""
    return simplify(step, is_source=_is_carried, passes=LOCAL)


def split_single(step: Graph) -> Split:
    """Return what runs before each step, and the step, which computes vectors of parameters alone itself."""
    readers = users(step.outputs.values())
    light: dict[Value, bool] = {}

    def is_light(value: Value) -> bool:
        """Whether a value of parameters alone is a vector that only rows and other such vectors read."""
        if value not in light:
            is_vector = value.kind == "map" and value.type.kind in ("scalar", "vector")
            light[value] = is_vector and all(r.type.rows or is_light(r) for r in readers[value])
        return light[value]

    parts = split(step, lambda v: _is_carried(v) or is_light(v))
    return replace(parts, loop=_with_input(parts.loop))


def plan_single(parts: Split) -> ScheduledForward:
    """Return the step as a loop of one step, which keeps no sequence."""
    return forward_of(parts.loop, (), {})


def _is_carried(value: Value) -> bool:
    return value.op == "input" and value.group in ("state", "x", "rows")


def _with_input(loop: Graph) -> Graph:
    """Return the loop with x and further rows as sequences, which is what a target reads them as."""
    builder = Builder()

    def rule(value: Value, args: tuple[Value, ...]) -> Value:
        if value.op == "input" and value.group in ("x", "rows"):
            name = INPUT if value.group == "x" else value.name
            return builder.make("input", data=("sequence", name), type=value.type)
        return same(builder, value, args)

    return rebuild(loop, builder, rule)
