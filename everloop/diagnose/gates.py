"""Gates and memory over data: what is open, what is closed, how long a memory cell keeps what it holds.

Gates below 0.1 and above 0.9 are counted as by Karpathy, Johnson and Fei-Fei, "Visualizing and understanding recurrent
networks", 2015.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from everloop.compiler.bindings import Bindings
from everloop.compiler.evaluate import evaluate
from everloop.compiler.ir import Graph, Value
from everloop.compiler.trace import trace
from everloop.diagnose.keeping import keep_factors
from everloop.diagnose.recording import Lane, Track
from everloop.errors import UnsupportedError
from everloop.layers.dropout import Wrapper

LOW, HIGH, BINS = 0.1, 0.9, 10
STILL = 1e-6  # a unit whose variance is smaller does nothing
FADES = 1e-9  # what fades more slowly does not


@dataclass(frozen=True)
class Gate:
    """A value between 0 and 1 of a step, over data.

    units: the mean of each unit [H]; shares: how many of all values lie in each tenth from 0 to 1.
    """

    layer: str
    name: str
    units: Tensor
    shares: tuple[float, ...]

    @property
    def low(self) -> float:
        """The share of values below 0.1: shut."""
        return self.shares[0]

    @property
    def high(self) -> float:
        """The share of values above 0.9: open."""
        return self.shares[-1]

    def __str__(self) -> str:
        marks = "▁▂▃▄▅▆▇█"
        bars = "".join(marks[min(7, int(8 * share))] for share in self.shares)
        return f"{self.layer}, gate {self.name}: {self.low:.0%} below 0.1, {self.high:.0%} above 0.9   0 {bars} 1"


@dataclass(frozen=True)
class States:
    """A state over data.

    still: the share of units that hardly change; rank: how many directions it uses (participation ratio); half_lives:
    for each unit, after how many steps half of what it holds is left on the direct path, where the new state is the old
    one times something plus something (infinite where nothing is lost); None elsewhere.
    """

    layer: str
    name: str
    size: int
    still: float
    rank: float
    half_lives: Tensor | None

    def __str__(self) -> str:
        text = f"{self.layer}, state {self.name}: rank {self.rank:.1f} of {self.size}, {self.still:.0%} of units still"
        if self.half_lives is None:
            return text
        middle, longest = float(self.half_lives.median()), float(self.half_lives.max())
        if math.isinf(middle):
            return f"{text}; memory does not fade by itself (median unit)"
        return f"{text}; memory halves in {middle:.1f} steps (median unit), {longest:.0f} (longest)"


def gates_and_states(lanes: Sequence[Lane]) -> tuple[list[Gate], list[States]]:
    """Return what gates and states did in recorded lanes; no gates of a cell that the compiler cannot read."""
    gates: list[Gate] = []
    states: list[States] = []
    for track in (track for lane in lanes for track in lane.tracks):
        if not bool(track.valid.any()):
            continue
        found, keeps = seen(track)
        gates += [_gate(track.layer, name, values) for name, values in found.items()]
        for name, rows in track.stacked(track.after).items():
            states.append(_states(track.layer, name, rows[track.valid], keeps.get(name)))
    return gates, states


def _gate(layer: str, name: str, values: Tensor) -> Gate:
    places = (values * BINS).long().clamp(0, BINS - 1).flatten()
    shares = torch.bincount(places, minlength=BINS).double() / max(1, places.numel())
    return Gate(layer, name, values.mean(0), tuple(shares.tolist()))


def _states(layer: str, name: str, rows: Tensor, keep: Tensor | None) -> States:
    moved = rows.double() - rows.double().mean(0)
    squares = torch.linalg.svdvals(moved).square()
    rank = float(squares.sum().square() / squares.square().sum().clamp_min(1e-300))
    still = float((rows.double().var(0, unbiased=False) < STILL).double().mean())
    lives = None
    if keep is not None:
        fades = -keep.double().abs().clamp(1e-12, 1).log().mean(0)
        lives = math.log(2) / torch.where(fades < FADES, 0, fades)
    return States(layer, name, rows.shape[1], still, rank, lives)


def seen(track: Track) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the gates by name and the factors by which states keep what they hold, [N, H] over all valid steps."""
    cell, values = track.cell, track.values
    while isinstance(cell, Wrapper):  # a regulariser does nothing to the gates in evaluation
        cell, values = cell.cell, _inner(values)
    try:
        graph = trace(cell, values.fixed, values.rows, values.steps, track.x.dtype, names=True)
    except UnsupportedError:
        return {}, {}
    gates = dict(_gates(graph))
    keeps = {f"keep {state}": factor for state, factor in keep_factors(graph).items()}
    if not gates and not keeps:
        return {}, {}
    flat = {name: rows[track.valid] for name, rows in track.stacked(track.before).items()}
    x, row = track.x[track.valid], track.valid.nonzero()[:, 1]
    known = values.fixed | {name: rows[row] for name, rows in values.rows.items()}
    known |= {name: rows[track.valid] for name, rows in values.steps.items()}

    def leaf(value: Value) -> Tensor:
        if value.group == "x":
            return x
        if value.group == "literal":
            return value.data[1].to(x)  # type: ignore[no-any-return]
        return (flat if value.group == "state" else known)[value.name].detach()

    with torch.no_grad():
        results = evaluate(Graph({**{f"gate {n}": v for n, v in gates.items()}, **keeps}), leaf, x)
    shown = {name.removeprefix("gate "): rows for name, rows in results.items() if name.startswith("gate ")}
    kept = {name.removeprefix("keep "): rows for name, rows in results.items() if name.startswith("keep ")}
    return shown, {state: factor.expand_as(flat[state]) for state, factor in kept.items()}


def _inner(values: Bindings) -> Bindings:
    """Return what the cell inside a regulariser reads."""
    groups = (values.fixed, values.rows, values.steps)
    return Bindings(*({n.removeprefix("cell."): t for n, t in g.items() if n.startswith("cell.")} for g in groups))


def _gates(graph: Graph) -> Iterator[tuple[str, Value]]:
    """Yield the sigmoids of a step with the names that it gives to them, or to what they are made of."""
    taken: set[str] = set()
    for value in graph.values:
        if value.op == "sigmoid" and value.type.rows:
            name = graph.names.get(value) or graph.names.get(value.args[0]) or "σ"
            number = 1
            base = name
            while name in taken:
                number += 1
                name = f"{base} {number}"
            taken.add(name)
            yield name, value
