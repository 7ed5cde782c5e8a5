"""Before the simplification: what only reads the states that a step produced leaves the loop at its other end.

A state that no step reads back, an output layer for instance, needs no loop. It runs after it, for all steps at once,
where that takes a product out of the loop; what is only element-wise costs less inside.
"""

from __future__ import annotations

from dataclasses import dataclass

from everloop.compiler.gradient import sequence_of
from everloop.compiler.ir import Builder, Graph, Value, walk
from everloop.compiler.rewrite import Depends, same


@dataclass(frozen=True)
class Sunk:
    """A step in two parts.

    loop:  its outputs are the states that stay, and the rows that the rest reads and that are no states.
    epilogue: its outputs are the states that left; its inputs are those of the step and, as steps, outputs of the loop.
    exposed: the outputs of the loop whose whole sequence is a result or read after the loop.
    turns: how often a step goes through the loop.
    """

    loop: Graph
    epilogue: Graph
    exposed: tuple[str, ...]
    turns: int = 1


NARROW = 4  # times narrower than the state it is made of


def rows_of(epilogue: Graph, output: str) -> list[str]:
    """Return the outputs of the loop that one output of `epilogue` reads."""
    read = [v.name for v in walk([epilogue.outputs[output]]) if v.op == "input" and v.group == "steps"]
    return [name.removesuffix(sequence_of("")) for name in read if name.endswith(sequence_of(""))]


def sink(graph: Graph) -> Sunk:
    """Return `graph`, a traced step, without what can run after the loop, and that."""
    in_loop = Depends(lambda v: v.op == "input" and v.group == "state")
    read = {v.name for v in graph.inputs if v.group == "state"}
    states = [v for name, v in graph.outputs.items() if name in read]
    inside = set(walk([*states, *_matrix_reads(graph, set(states))]))
    leaves = Depends(lambda v: v.kind == "product" and in_loop(v) and v not in inside)
    gone = {name: v for name, v in graph.outputs.items() if name not in read and leaves(v)}
    if not gone:
        return Sunk(graph, Graph({}), tuple(graph.outputs)[:1])
    return _Sinking(graph, in_loop, leaves, gone, inside).sunk()


def _matrix_reads(graph: Graph, states: set[Value]) -> list[Value]:
    """Return the sums over axes of matrices that a step produced: they stay in the loop, with all they need."""
    sums = (v for v in graph.values if v.kind == "reduce" and v.width > 1)
    return [v for v in sums if NARROW * v.width <= _width_of(v, states)]


def _width_of(value: Value, states: set[Value]) -> int:
    """Return how wide the states are that a value is made of without a product."""
    found, stack, seen = 0, [value], set[Value]()
    while stack:
        each = stack.pop()
        if each in seen or each.kind == "product":
            continue
        seen.add(each)
        if each in states:
            found += each.width
        else:
            stack += each.args
    return found


class _Sinking:
    def __init__(
        self, graph: Graph, in_loop: Depends, leaves: Depends, gone: dict[str, Value], inside: set[Value]
    ) -> None:
        self.graph, self.in_loop, self.leaves, self.gone = graph, in_loop, leaves, gone
        self.stay = {name: v for name, v in graph.outputs.items() if name not in gone}
        self.inside = {*inside, *walk(self.stay.values())}
        self.rows = {value: name for name, value in reversed(self.stay.items())}
        self.new = set(self.rows)

    def sunk(self) -> Sunk:
        builder, done = Builder(), dict[Value, Value]()
        needed = self._needed()
        for value in self.graph.values:
            if value in needed and self._is_row(value):
                done[value] = builder.make("input", data=("steps", sequence_of(self._name(value))), type=value.type)
            elif value in needed:
                builder.line = value.where
                done[value] = same(builder, value, tuple(done[a] for a in value.args))
        names = self.graph.names
        loop = Graph(self.stay | {name: value for value, name in self.rows.items()}, names)
        epilogue = {name: done[value] for name, value in self.gone.items()}
        after = Graph(epilogue, {done[v]: n for v, n in names.items() if v in done})
        after.verify()
        output = next(iter(self.graph.outputs))
        return Sunk(loop, after, (output,) if output in loop.outputs else tuple(rows_of(after, output)))

    def _needed(self) -> set[Value]:
        """Return what runs after the loop, and the rows it reads."""
        found: set[Value] = set()
        stack = list(self.gone.values())
        while stack:
            value = stack.pop()
            if value not in found:
                found.add(value)
                stack += () if self._is_row(value) else value.args
        return found

    def _is_row(self, value: Value) -> bool:
        """Whether the loop gives a value: what needs no product that left it, unless one new state is enough for it.

        A value that is far narrower than that state, such as a sum over a matrix, costs less than its whole sequence.
        """
        if not self.in_loop(value) or self.leaves(value):
            return False
        if value in self.inside:
            return True
        sources = self._sources(value)
        is_narrow = value.width > 1 and NARROW * value.width <= sum(source.width for source in sources)
        return len(sources) > 1 or is_narrow or not sources <= self.new

    def _sources(self, value: Value) -> set[Value]:
        """Return the new states that a value is made of, and the old ones where it is made of these."""
        found, stack, seen = set[Value](), [value], set[Value]()
        while stack:  # each value once: in a long step, the ways to a value are more than can be gone
            each = stack.pop()
            if each in seen:
                continue
            seen.add(each)
            if each in self.new or each.op == "input":
                found |= {each} if self.in_loop(each) else set()
            else:
                stack += each.args
        return found

    def _name(self, value: Value) -> str:
        """Return the name under which the loop gives the rows of a value."""
        if value not in self.rows:
            taken = {*self.graph.outputs, *self.rows.values(), *(v.name for v in self.graph.inputs)}
            self.rows[value] = next(n for n in (f"s{k}" for k in range(len(taken) + 1)) if n not in taken)
        return self.rows[value]
