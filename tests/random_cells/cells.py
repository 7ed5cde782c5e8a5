"""Draws a whole cell: one to three building blocks, one reading the other, and what users add."""

from __future__ import annotations

import random
from dataclasses import replace

from tests.random_cells.draw import Draw
from tests.random_cells.expressions import bounded, draw_row
from tests.random_cells.papers import BLOCKS, plain
from tests.random_cells.products import product
from tests.random_cells.shaped import outputs, shaped
from tests.random_cells.source import ONE, Dim, Drawn, H, K, Node
from tests.random_cells.told import tell

SHAPED = 0.4  # how many cells have grids
TOLD = 0.3  # how many read more than x and states


def draw_cell(rng: random.Random) -> Drawn:
    """Return a random cell; the same for the same state of `rng`."""
    d = Draw(rng)
    if d.chance(TOLD):
        tell(d)
    if d.chance(SHAPED):
        return _finished(d, shaped(d))
    if d.chance(0.4):
        return _finished(d, plain(d, d.x))
    after: list[Node] = []
    x = d.x
    if d.chance(0.15):
        x = d.let(draw_row(d, d.any([d.x.kind.dim, H]), 2), "x")
    for _ in range(rng.choices([1, 2, 3], [20, 4, 1])[0]):
        block = rng.choices([b for _, b in BLOCKS], [w for w, _ in BLOCKS])[0]
        new = block(d, x)
        if d.chance(0.5):
            new[0] = x = d.let(new[0])
        after += new
    if d.chance(0.15):  # a readout that no step reads back
        y = d.state("y", d.any([H, K, ONE, Dim.of("", 2)]))
        d.scope.remove(y)
        out = product(d, d.let(after[0]), y.kind.dim)
        after.append(bounded(d, d.let(out)) if d.chance(0.5) else out)
    after += outputs(d) if d.chance(0.15) else []
    if d.chance(0.15):  # a state that also sees the new value of another
        i = d.rng.randrange(len(d.states))
        seen = d.let(bounded(d, d.let(draw_row(d, after[i].kind.dim, 2))))
        after[i] = Node("({0} + 0.1 * {1})", after[i].kind, (after[i], seen))
    return _finished(d, after)


def _finished(d: Draw, after: list[Node]) -> Drawn:
    order = list(range(len(d.states)))
    if d.chance(0.5):
        d.rng.shuffle(order)
    if not d.outputs:
        order.sort(key=lambda i: len(d.states[i][1].dims) > 1)
    cell = Drawn(
        tuple(d.states[i] for i in order),
        (*(after[i] for i in order), *after[len(d.states) :]),
        tuple(d.lines),
        tuple(d.declared),
        options=tuple(d.options.items()),
        outputs=tuple(d.outputs),
    )
    names = cell.parameters()
    rate = d.any([0.0, 0.0, 0.2, 0.5, 0.8, 1.0])
    return replace(cell, frozen=tuple(name for name in names if d.chance(rate)))
