"""Third pass: cut the step where the loop begins. What depends on no state runs before it, for all steps at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from everloop.compiler.ir import Builder, Graph, Type, Value
from everloop.compiler.rewrite import Depends, same


@dataclass(frozen=True)
class Split:
    """A step in two parts.

    prelude: what runs before the loop; its outputs are the cuts by name.
    loop:    what runs in the loop; its inputs are ("state", name) and (kind, cut) where kind is the kind of the
             Loop's buffer: sequence, row, vector or matrix. Its outputs are the new states.
    """

    prelude: Graph
    loop: Graph

    @property
    def cuts(self) -> dict[str, Value]:
        """The loop's inputs besides the states, by name, in the order of the prelude's outputs."""
        found = {v.name: v for v in self.loop.inputs if v.group != "state"}
        return {name: found[name] for name in self.prelude.outputs}

    @property
    def owned(self) -> frozenset[str]:
        """The sequences that the prelude computes, so that nobody else reads them."""
        return frozenset(
            name for name, v in self.cuts.items() if v.group == "sequence" and self.prelude.outputs[name].op != "input"
        )


def moment(value: Value, known: dict[Value, str]) -> str:
    """Return how often a value outside the loop changes: sequence (every step), row (every sequence), fixed (never)."""
    found = known.get(value)
    if found is None:
        if value.op == "input":
            found = {"x": "sequence", "steps": "sequence", "rows": "row"}.get(value.group, "fixed")
        else:
            below = {moment(a, known) for a in value.args}
            found = "sequence" if "sequence" in below else "row" if "row" in below else "fixed"
        known[value] = found
    return found


def split(graph: Graph, stays: Callable[[Value], bool] = lambda v: v.op == "input" and v.group == "state") -> Split:
    """Return `graph`, a simplified step, cut at the border of the loop: what depends on a value that `stays`."""
    in_loop = Depends(stays)
    builder = Builder()
    cuts: dict[Value, str] = {}
    moments: dict[Value, str] = {}
    moved: dict[Value, Value] = {}

    def cut(value: Value) -> Value:
        if value.op == "constant":
            return builder.constant(value.number, value.type)
        if value.op == "slice" and value.type.kind != "matrix":
            return builder.slice(cut(value.args[0]), *value.data)
        name = value.name if value.op == "input" and value.group != "taken" else f"u{len(cuts)}"
        if value not in cuts:
            while name in cuts.values() or name in graph.outputs:
                name += "'"
            cuts[value] = name
        when = moment(value, moments)
        kind = when if when != "fixed" else "matrix" if value.type.kind == "matrix" else "vector"
        shape = value.type.shape if kind != "vector" else value.type.shape or (1,)
        return builder.make("input", data=(kind, cuts[value]), type=Type(shape, rows=kind in ("sequence", "row")))

    for value in graph.values:
        if in_loop(value):
            builder.line = value.where
            args = tuple(moved[a] if in_loop(a) else cut(a) for a in value.args)
            moved[value] = same(builder, value, args)
    outputs = {name: moved[v] if in_loop(v) else cut(v) for name, v in graph.outputs.items()}
    names = {moved[v]: n for v, n in graph.names.items() if v in moved}
    loop = Graph(outputs, names)
    loop.verify()
    prelude = Graph({name: v for v, name in cuts.items()}, {v: n for v, n in graph.names.items() if v not in moved})
    return Split(prelude, loop)
