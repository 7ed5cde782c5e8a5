"""Hoist: cut the step where the loop begins. What depends on no state runs before it, for all steps at once.

All but element-wise mathematics and sums over features that only the loop reads: before the loop each operation would
pass over the rows of all steps, in the loop they are at hand. Products, and biases added to them, are never left there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from everloop.compiler.ir import Builder, Graph, Type, Value
from everloop.compiler.rewrite import Depends, same, users
from everloop.compiler.simplify import LOCAL, simplify
from everloop.compiler.view import View


@dataclass(frozen=True)
class Split:
    """A step in parts.

    prologue: what runs before the loop; its outputs are the loop inputs, by name.
    loop:    what runs in the loop; its inputs are ("state", name) and (kind, name) where kind is the kind of the
             Loop's buffer: sequence, row, vector or matrix. Its outputs are the new states, and rows for what
             runs after the loop.
    epilogue: what runs after the loop; its outputs are the states that no step reads back, by name.
    exposed: the outputs of the loop whose whole sequence is a result or read after the loop.
    turns: how often a step goes through the loop, all with the loop inputs of the step.
    """

    prologue: Graph
    loop: Graph
    epilogue: Graph
    exposed: tuple[str, ...]
    turns: int = 1

    @property
    def loop_inputs(self) -> dict[str, Value]:
        """The loop's inputs besides the states, by name, in the order of the prologue's outputs."""
        found = {v.name: v for v in self.loop.inputs if v.group != "state"}
        return {name: found[name] for name in self.prologue.outputs}

    @property
    def owned(self) -> frozenset[str]:
        """The sequences that the prologue computes, so that nobody else reads them."""
        made = [name for name, v in self.prologue.outputs.items() if v.op != "input"]
        return frozenset(name for name in made if self.loop_inputs[name].group == "sequence")


def frequency(value: Value, known: dict[Value, str]) -> str:
    """Return how often a value outside the loop changes: sequence (every step), row (every sequence), fixed (never)."""
    stack = [] if value in known else [value]
    while stack:
        each = stack[-1]
        waiting = [a for a in each.args if a not in known]
        if waiting:
            stack += waiting
            continue
        if each.op == "input":
            known[each] = {"x": "sequence", "steps": "sequence", "rows": "row"}.get(each.group, "fixed")
        else:
            below = {known[a] for a in each.args}
            known[each] = "sequence" if "sequence" in below else "row" if "row" in below else "fixed"
        stack.pop()
    return known[value]


def split(
    graph: Graph,
    stays: Callable[[Value], bool] = lambda v: v.op == "input" and v.group == "state",
    *,
    epilogue: Graph | None = None,
    exposed: tuple[str, ...] = (),
    turns: int = 1,
) -> Split:
    """Return a simplified step in parts; the loop gets what depends on a value for which `stays` holds.

    epilogue, exposed, turns: as in `Split`; by default nothing runs after the loop, and the first output is exposed.
    """
    in_loop = Depends(stays)
    builder = Builder()
    inputs: dict[Value, str] = {}
    frequencies: dict[Value, str] = {}
    moved: dict[Value, Value] = {}
    inner = _inner(graph, in_loop, frequencies)

    def as_input(value: Value) -> Value:
        if value in inner:
            return moved[value]
        if value.op == "constant":
            return builder.constant(value.number, value.type)
        if value.op == "slice" and value.type.kind != "matrix":
            return builder.slice(as_input(value.args[0]), *value.data)
        if value.op == "view":
            return builder.view(as_input(value.args[0]), View.of(value.data))
        name = value.name if value.op == "input" and value.group != "literal" else f"u{len(inputs)}"
        if value not in inputs:
            while name in inputs.values() or name in graph.outputs:
                name += "'"
            inputs[value] = name
        when = frequency(value, frequencies)
        kind = when if when != "fixed" else "matrix" if value.type.kind == "matrix" else "vector"
        shape = value.type.shape if kind != "vector" else value.type.shape or (1,)
        return builder.make(
            "input",
            data=(kind, inputs[value]),
            type=Type(shape, kind in ("sequence", "row"), value.type.dtype or graph.dtype),
        )

    for value in graph.values:
        if in_loop(value) or value in inner:
            builder.line = value.where
            args = tuple(moved[a] if in_loop(a) else as_input(a) for a in value.args)
            moved[value] = same(builder, value, args)
    outputs = {name: moved[v] if in_loop(v) else as_input(v) for name, v in graph.outputs.items()}
    names = {moved[v]: n for v, n in graph.names.items() if v in moved}
    loop = Graph(outputs, names)
    loop.verify()
    if inner:
        loop = simplify(loop, is_source=lambda v: v.op == "input", passes=LOCAL)
        read = {v.name for v in loop.inputs}
        inputs = {v: name for v, name in inputs.items() if name in read}
    prologue = Graph({name: v for v, name in inputs.items()}, {v: n for v, n in graph.names.items() if v not in moved})
    return Split(prologue, loop, epilogue or Graph({}), exposed or tuple(graph.outputs)[:1], turns)


def _inner(graph: Graph, in_loop: Depends, frequencies: dict[Value, str]) -> set[Value]:
    """Return what could run before the loop for every step, and is computed inside."""
    readers, roots = users(graph.outputs.values()), set(graph.outputs.values())
    found: set[Value] = set()

    def is_light(value: Value) -> bool:
        if in_loop(value) or value in roots or _is_product(value) or not value.type.rows:
            return False
        fits = value.kind in ("map", "reduce", "layout")
        return fits and frequency(value, frequencies) == "sequence"

    def is_read_inside(value: Value) -> bool:
        return all(r in found or (in_loop(r) and r.kind != "product") for r in readers[value])

    for value in reversed(graph.values):
        if is_light(value) and is_read_inside(value):
            found.add(value)
    return found


def _is_product(value: Value) -> bool:
    """Whether a value is a product, or parts of one, or one with a bias."""
    if value.kind == "product" or value.op == "input":
        return True
    if value.op == "slice":
        return _is_product(value.args[0])
    return value.op == "add" and value.args[0].kind == "product" and value.args[1].type.kind == "vector"
