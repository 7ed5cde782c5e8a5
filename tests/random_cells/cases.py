"""A call of a layer as plain values: what surrounds the cell, sizes, lengths, resets, states, and what is compared."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.random_cells.source import Drawn, I

WIDTHS = [1, 2, 3, 3, 5, 5, 7, 9, 17, 33]
AXES = [1, 1, 2, 3, 4, 5, 7, 8, 16, 17]
BATCHES = [1, 2, 3, 5, 8, 17]
TIMES = [1, 2, 3, 7, 12]


@dataclass(frozen=True)
class Case:
    """One call.

    around: what surrounds the cell: "" (nothing), "layers" (Recurrent(layers=2)), "stack" (this cell twice in a
    Stack), "under GRU", "over GRU", "residual", or one of "zoneout", "weight drop", "variational dropout".
    how: "train", "no_grad", "twice" (two calls, then backward of both), "retain" (backward twice), "other"
    (a call of another size before), "record" (with the sequences of states and local names), "step" (single steps),
    "step no_grad".
    """

    sizes: dict[str, int]
    steps: int = 3
    batch: int = 2
    seed: int = 0
    around: str = ""
    bidirectional: bool = False
    merge: str = "concat"
    how: str = "train"
    lengths: tuple[int, ...] | None = None
    resets: tuple[tuple[int, int], ...] | None = None
    batch_first: bool = False
    state: bool = False
    learned: bool = False
    x_grad: bool = True
    state_grad: bool = True
    training: bool = True
    double: bool = True
    loss: str = "all"  # or "output", "state", "last"
    optimised: bool = False
    recompute: int | None = None
    told_grad: bool = True
    ends: bool = False  # whether memories have lengths


def draw_case(rng: random.Random, cell: Drawn) -> Case:
    """Return a random call for this cell."""

    def chance(p: float) -> bool:
        return rng.random() < p

    sizes = {letter: rng.choice(WIDTHS) for letter in "IHK"}
    while "A" not in sizes or sizes["A"] * sizes["B"] * sizes["C"] > 300:
        sizes |= {letter: rng.choice(AXES) for letter in "ABC"}
    if cell.has_heads:
        sizes["H"] = sizes["A"] * rng.choice([1, 2, 3])
    steps, batch = rng.choice(TIMES), rng.choice(BATCHES)
    while steps * batch > 60:
        steps, batch = rng.choice(TIMES), rng.choice(BATCHES)
    how = rng.choices(
        ["train", "no_grad", "twice", "retain", "other", "record", "step", "step no_grad"], [42, 8, 8, 8, 10, 8, 5, 10]
    )[0]
    around = rng.choices(
        ["", "layers", "stack", "residual", "under GRU", "over GRU", "zoneout", "weight drop", "variational dropout"],
        [76, 3, 3, 3, 3, 3, 3, 3, 3],
    )[0]
    first = cell.output_dim
    if around == "residual" and cell.outputs:
        around = "stack"
    if around in ("layers", "residual") and cell.has_modules:
        around = "stack"
    if around == "stack" and first != I:
        sizes["I"] = first.swap("I", "H").value(sizes)
    told = cell.told()
    around = "" if told else around
    chances = [d.text for d in told if d.sort == "noise"]
    stepping = how.startswith("step") and not any("always" in text for text in chances)
    how = how if stepping or not how.startswith("step") else "train"
    around = "" if how == "record" else around
    noisy = bool(chances) or around in ("zoneout", "weight drop", "variational dropout")
    lengths = tuple(rng.choice([0, steps, rng.randint(0, steps)]) for _ in range(batch)) if chance(0.5) else None
    resets = None
    if chance(0.3):
        resets = tuple((t, b) for t in range(steps) for b in range(batch) if chance(rng.choice([0.1, 0.5])))
    return Case(
        sizes,
        steps,
        batch,
        rng.randrange(10**6),
        around,
        bidirectional=chance(0.15) and not (stepping or noisy or how == "record"),
        merge=rng.choice(["concat", "sum"]),
        how=how,
        lengths=None if stepping else lengths,
        resets=None if stepping else resets,
        batch_first=chance(0.3),
        state=chance(0.5),
        learned=chance(0.25),
        x_grad=chance(0.75),
        state_grad=chance(0.75),
        training=chance(0.7) and not (stepping and (around != "zoneout" or chances)),
        double=chance(0.85),
        loss=rng.choices(["all", "output", "state", "last"], [6, 3, 1, 1])[0],
        optimised=chance(0.1),
        recompute=rng.choice([0, 1, 2, 3, 5]) if chance(0.15) else None,
        told_grad=chance(0.75),
        ends=chance(0.6),
    )
