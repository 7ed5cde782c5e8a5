"""Rematerialisation: what the forward loop saves for the gradient loop, and what that recomputes. A minimum cut."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from everloop.compiler.gradient import Gradient
from everloop.compiler.ir import Graph, Value, walk
from everloop.compiler.rewrite import Depends

SAVE = 1000  # of one feature
NEVER = 1 << 40


@dataclass(frozen=True)
class Rematerialisation:
    """saved: values written by the forward loop, in order; states: those whose whole sequence is kept.

    recomputed: values the gradient loop computes from them and from its inputs.
    """

    saved: tuple[Value, ...]
    states: tuple[str, ...]
    recomputed: tuple[Value, ...]


def rematerialise(gradient: Gradient, kept: tuple[str, ...], owned: frozenset[str] = frozenset()) -> Rematerialisation:
    """Return the cheapest choice.

    kept:  states whose sequence exists anyway, such as the output.
    owned: sequences that only the loop reads; to keep one costs its memory, which saved values may take instead.
    """
    loop = gradient.forward
    carried = set(gradient.cotangents)
    late = Depends(lambda v: v in carried)
    roots = [*gradient.graph.outputs.values(), *(v for pairs in gradient.pairs.values() for p in pairs for v in p)]
    needed: dict[Value, None] = {}
    for value in walk(roots):
        if late(value):
            needed.update((a, None) for a in value.args if not late(a))
    needed.update((v, None) for v in roots if not late(v))
    while True:
        cut = _minimum_cut(loop, list(needed), kept, owned)
        more = [v.name for v in cut if v.op == "input" and v.group == "state" and v.name not in kept]
        owned -= {v.name for v in cut if v.op == "input" and v.group == "sequence"}
        if not more:
            break
        kept = (*kept, *more)
    saved = tuple(v for v in cut if v.op != "input")
    have = _available(loop, kept, owned)
    recomputed = tuple(
        v for v in _above(list(needed), {*saved, *have}) if v.kind in ("map", "reduce") and v not in saved
    )
    return Rematerialisation(saved, kept, recomputed)


def _available(loop: Graph, kept: tuple[str, ...], owned: frozenset[str]) -> set[Value]:
    """Values the gradient loop can read although nobody saves them."""
    before = {v for v in loop.inputs if v.name in kept or v.group not in ("state", "sequence")}
    before |= {v for v in loop.inputs if v.group == "sequence" and v.name not in owned}
    return before | {value for name, value in loop.outputs.items() if name in kept}


def _above(needed: list[Value], have: set[Value]) -> list[Value]:
    """Return what is computed on the way from `have` to `needed`."""
    found: dict[Value, None] = {}
    stack = [v for v in needed if v not in have]
    while stack:
        value = stack.pop()
        if value not in found:
            found[value] = None
            stack += [a for a in value.args if a not in have]
    return [v for v in walk(needed) if v in found]


class _Network:
    """Maximum flow by shortest augmenting paths; the graphs have some dozens of nodes."""

    def __init__(self) -> None:
        self.capacity: dict[object, dict[object, int]] = defaultdict(lambda: defaultdict(int))

    def edge(self, a: object, b: object, capacity: int) -> None:
        self.capacity[a][b] += capacity
        self.capacity[b][a] += 0

    def _search(
        self, start: object, stop: object | None, passes: Callable[[object, object], bool]
    ) -> dict[object, object]:
        reached: dict[object, object] = {start: start}
        queue = deque([start])
        while queue and stop not in reached:
            node = queue.popleft()
            for other in self.capacity[node]:
                if other not in reached and passes(node, other):
                    reached[other] = node
                    queue.append(other)
        return reached

    def flow(self, source: object, sink: object) -> None:
        while True:
            reached = self._search(source, sink, lambda a, b: self.capacity[a][b] > 0)
            if sink not in reached:
                return
            path, node = [], sink
            while node != source:
                path.append((reached[node], node))
                node = reached[node]
            room = min(self.capacity[a][b] for a, b in path)
            for a, b in path:
                self.capacity[a][b] -= room
                self.capacity[b][a] += room

    def sink_side(self, sink: object) -> set[object]:
        """Nodes from which the sink can still be reached: of all minimum cuts the one nearest to the sink."""
        return set(self._search(sink, None, lambda a, b: self.capacity[b][a] > 0))


def _minimum_cut(loop: Graph, needed: list[Value], kept: tuple[str, ...], owned: frozenset[str]) -> list[Value]:
    forward, have = set(loop.values), _available(loop, kept, owned)
    net = _Network()
    net.edge("source", "sink", 0)
    for value in walk(needed):
        if value in have or value.op == "constant":
            continue
        entry, end = (value, "in"), (value, "out")
        is_source = value.op == "input" or value.kind in ("product", "reduce")
        cost = value.width * SAVE + (0 if value in forward else 1)
        net.edge(entry, end, cost)
        net.edge("source", entry, NEVER if is_source else value.operation.cost * value.width)
        for arg in value.args:
            if arg not in have and arg.op != "constant":
                net.edge((arg, "out"), entry, NEVER)
    for value in needed:
        if value not in have and value.op != "constant":
            net.edge((value, "out"), "sink", NEVER)
    net.flow("source", "sink")
    near = net.sink_side("sink")
    return [v for v in walk(needed) if (v, "out") in near and (v, "in") not in near]
