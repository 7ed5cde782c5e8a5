"""The layout of a data flow: its output is the lowest state, x stands below it, the other states above."""

from __future__ import annotations

from collections.abc import Mapping

from everloop.draw.flow import Flow
from everloop.draw.wires import Layout, Spacing, laid_out


def arranged(flow: Flow, sizes: Mapping[int, tuple[float, float]], spacing: Spacing, round_: frozenset[int]) -> Layout:
    """Return the layout of a flow: the output is the lowest state, x stands below it, other states above."""
    states, inputs = flow.of("state"), flow.of("input")
    first = [*reversed(states), *inputs]
    weights: dict[tuple[int, int], float] = {}
    for source, targets in flow.edges.items():
        for target in targets:
            kinds = flow.nodes[source].role, flow.nodes[target].role
            is_memory = kinds[0] in ("state", "map") and kinds[1] in ("map", "new")
            weights[source, target] = 1.0 if not is_memory else 5.0 if kinds[1] == "new" else 4.0
    return laid_out(sizes, flow.edges, first, flow.of("new", "output")[::-1], weights, round_, spacing)
