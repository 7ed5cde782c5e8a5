"""Gradients through time: how far back the loss of a step still reaches a state.

Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from everloop.diagnose.recording import Lane, Track, recorded
from everloop.errors import UnsupportedError
from everloop.layers.nested import map_state
from everloop.models.model import Model
from everloop.models.modes import evaluating

REACHED = 0.05  # a smaller part of the gradient counts as nothing
NOISE = 1e-6  # below this part a gradient in float32 is rounding
ORIGINS = 4  # steps whose loss is followed back


@dataclass(frozen=True)
class GradientThroughTime:
    """The gradient of the loss at a step with respect to a state, by how many steps before.

    layer, state: which one. norms: [K], the norm at lag 0, 1, …, as a part of that at lag 0. rate: by which factor it
    changes a step (fitted where it is above rounding). reach: the lag from which on it stays below 5 %; None: it does
    not, in the steps there are.
    """

    layer: str
    state: str
    norms: Tensor
    rate: float
    reach: int | None

    @property
    def steps(self) -> int:
        """How many steps back were looked at."""
        return len(self.norms) - 1

    @property
    def half_life(self) -> float:
        """Steps after which half of it is left; infinite where it does not shrink."""
        return half_life(self.rate)

    def __str__(self) -> str:
        where = f"{self.layer}, state {self.state}: the gradient"
        if self.rate > 1 and float(self.norms[-1]) > 1:
            return (
                f"{where} grows {self.rate:.3g}-fold each step back, {float(self.norms[-1]):.3g}-fold in {self.steps}"
            )
        if self.reach is None:
            left = float(self.norms[-1])
            return f"{where} reaches back over all {self.steps} steps; {left:.0%} of it is left there"
        half = f" and halves every {self.half_life:.1f} steps" if self.half_life < 1e4 else ""
        return f"{where} is below 5 % after {self.reach} steps{half}"


def half_life(rate: float) -> float:
    """Return after how many steps half is left of what changes by a factor each; infinite where it does not shrink."""
    return math.log(2) / -math.log(rate) if 0 < rate < 1 else math.inf if rate else 0.0


def learned_reach(curves: Sequence[GradientThroughTime]) -> str:
    """Return how far back a model learns, by the state whose gradient reaches furthest, in a sentence; "" of none.

    The others do not bound it: what a step knew is handed on by every state.
    """
    if not curves:
        return ""
    furthest = max(curves, key=lambda c: c.steps if c.reach is None else c.reach)
    by = f"by state {furthest.state} of {furthest.layer}"
    if furthest.reach is None:
        return f"What is learned reaches over the whole window of {furthest.steps + 1} steps, {by}."
    return (
        f"Nothing older than about {furthest.reach} steps is learned ({by}); the window is {furthest.steps + 1} steps."
    )


def gradient_through_time(model: Model, batch: Any, state: Any = None) -> list[GradientThroughTime]:
    """Return how far back gradients reach in each layer, state and direction, on a batch.

    The loss of single steps, as far as it enters by the output of the recurrent layers, is followed back through
    the states of all layers below: exactly what backpropagation through time adds up. For an encoder it is what the
    decoder asks of it.

    Args:
        model: a trained or untrained model, run in evaluation mode; a cell of any kind.
        batch: as `model.loss` takes it; eight sequences are enough.
        state: what streams continue from.

    Raises:
        UnsupportedError: the model runs no recurrent layers on the whole sequence.
    """
    return gradients_of(record(model, batch, state))


def gradients_of(lanes: Sequence[Lane]) -> list[GradientThroughTime]:
    """Return the gradients through time of recorded lanes."""
    return [curve for lane, grads in zip(lanes, arriving(lanes), strict=True) for curve in _of_lane(lane, grads)]


def arriving(lanes: Sequence[Lane]) -> list[list[Tensor | None]]:
    """Return the gradients that come to what each recorded lane put out, those by way of later lanes among them."""
    pending = [[None if g is None else g.clone() for g in (leaf.grad for leaf in lane.cut)] for lane in lanes]
    for lane, grads in zip(reversed(lanes), reversed(pending), strict=True):
        _hand_down(lane, grads, lanes, pending)
    return pending


def record(model: Model, batch: Any, state: Any = None) -> list[Lane]:
    """Return the lanes of one loss, with the gradients of what each put out that do not pass another lane."""
    with evaluating(model), recorded(model) as lanes:
        loss = model.loss(batch, state)
        lanes = [lane for lane in lanes if lane.tracks]
        if not lanes:
            raise UnsupportedError(f"{type(model).__name__} ran no recurrent layers over a whole sequence")
        leaves = [leaf for lane in lanes for leaf in lane.cut]
        grads = torch.autograd.grad(loss.mean, leaves, retain_graph=True, allow_unused=True)
        for leaf, grad in zip(leaves, grads, strict=True):
            leaf.grad = grad
    return lanes


def follow(model: Model, batches: Sequence[Any], state: Any = None) -> list[list[Track]]:
    """Return the tracks of batches that follow one another in their streams, for each cell those of all batches."""
    windows = []
    with evaluating(model):
        for batch in batches:
            with recorded(model) as lanes:
                state = map_state(lambda s: s.detach() if isinstance(s, Tensor) else s, model.loss(batch, state).state)
            windows.append([track for lane in lanes for track in lane.tracks])
    return [list(tracks) for tracks in zip(*windows, strict=True)]


def _hand_down(
    lane: Lane, grads: Sequence[Tensor | None], lanes: Sequence[Lane], pending: list[list[Tensor | None]]
) -> None:
    """Add, to what earlier lanes put out, the gradient that comes to it through this lane."""
    earlier = [(i, j) for i, other in enumerate(lanes[: lanes.index(lane)]) for j in range(len(other.cut))]
    known = [
        (o, g) for o, g in zip([*lane.outputs, *lane.finals], grads, strict=True) if g is not None and o.requires_grad
    ]
    if not earlier or not known:
        return
    outputs, given = zip(*known, strict=True)
    leaves = [lanes[i].cut[j] for i, j in earlier]
    more = torch.autograd.grad(outputs, leaves, given, retain_graph=True, allow_unused=True)
    for (i, j), grad in zip(earlier, more, strict=True):
        if grad is not None:
            old = pending[i][j]
            pending[i][j] = grad if old is None else old + grad


def _of_lane(lane: Lane, grads: Sequence[Tensor | None]) -> list[GradientThroughTime]:
    asked = [(o, g) for o, g in zip(lane.outputs, grads, strict=False) if g is not None and bool(g.any())]
    sums: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
    for reverse in {track.reverse for track in lane.tracks}:
        tracks = [(n, track) for n, track in enumerate(lane.tracks) if track.reverse is reverse]
        for signal, origin in _signals(lane, grads, reverse, asked):
            for key, (norms, starts) in _norms(signal, origin, tracks).items():
                total, base = sums.get(key, (torch.zeros_like(norms), torch.zeros_like(norms)))
                sums[key] = total + norms, base + starts
    found = []
    for (n, name), (total, base) in sorted(sums.items(), key=lambda item: item[0][0]):
        curve = (total / base)[: int((base > 0).sum())]  # a lag that no sequence has is behind all others
        if len(curve):
            found.append(GradientThroughTime(lane.tracks[n].layer, name, curve, fitted_rate(curve), _reach(curve)))
    return found


def _signals(
    lane: Lane, grads: Sequence[Tensor | None], reverse: bool, asked: list[tuple[Tensor, Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    """Return scalars whose gradients are followed, each with the step [B] it belongs to.

    asked: outputs with the gradients that come to them; where there are none, only the final states are used.
    """
    lengths = lane.tracks[0].valid.sum(0)
    if not asked:
        finals = zip(lane.finals, grads[len(lane.outputs) :], strict=True)
        known = [(o * g).sum() for o, g in finals if g is not None]
        origin = torch.zeros_like(lengths) if reverse else lengths - 1
        return [(torch.stack(known).sum(), origin)] if known else []
    used = [t for t in range(len(lane.outputs[0])) if any(bool(g[t].any()) for _, g in asked)]
    # the steps with the longest past
    half = used[: max(1, (len(used) + 1) // 2)] if reverse else used[len(used) // 2 :]
    chosen = [half[round(i * (len(half) - 1) / max(1, ORIGINS - 1))] for i in range(min(ORIGINS, len(half)))]
    steps = {t: torch.stack([(o[t] * g[t]).sum() for o, g in asked]).sum() for t in dict.fromkeys(chosen)}
    return [(signal, torch.full_like(lengths, t)) for t, signal in steps.items()]


def _norms(
    signal: Tensor, origin: Tensor, tracks: list[tuple[int, Track]]
) -> dict[tuple[int, str], tuple[Tensor, Tensor]]:
    """Return, for each state of each track, the norms of the gradients of a scalar by lag, and those at lag 0.

    Both are sums over the sequences that have this lag.
    """
    places = [(n, track, name, t) for n, track in tracks for name in track.after for t in range(len(track.valid))]
    reached = [s for _, track, name, t in places if (s := track.after[name][t]).requires_grad]
    if not reached:
        return {}
    grads = iter(torch.autograd.grad(signal, reached, retain_graph=True, allow_unused=True))
    norms: dict[tuple[int, str], Tensor] = {}
    exists: dict[tuple[int, str], Tensor] = {}
    for n, track, name, t in places:
        state = track.after[name][t]
        grad = next(grads) if state.requires_grad else None
        lag = (t - origin) if track.reverse else (origin - t)
        kept = ((lag >= 0) & track.valid[t]).nonzero()[:, 0]
        if (n, name) not in norms:
            norms[n, name] = torch.zeros(track.valid.shape)
            exists[n, name] = torch.zeros(track.valid.shape)
        exists[n, name][lag[kept], kept] = 1
        if grad is not None:
            norms[n, name][lag[kept], kept] = grad.detach()[kept].norm(dim=-1).float()
    return {key: (rows.sum(1), (exists[key] * rows[0]).sum(1)) for key, rows in norms.items()}


def fitted_rate(curve: Tensor) -> float:
    """Return the factor a step, by least squares on the logarithm, up to where it is lost in rounding."""
    lost = (curve <= NOISE).nonzero()
    end = int(lost[0]) if len(lost) else len(curve)
    if end < 3:
        return float(curve[1]) if len(curve) > 1 else 0.0
    lags, logs = torch.arange(end, dtype=torch.float64), curve[:end].double().log()
    spread = lags - lags.mean()
    return math.exp(float((spread * (logs - logs.mean())).sum() / spread.square().sum()))


def _reach(curve: Tensor) -> int | None:
    above = (curve >= REACHED).nonzero()
    last = int(above[-1]) if len(above) else 0
    return None if last == len(curve) - 1 else last + 1
