"""What a training run did: its losses, norms and updates, and what its data asks of a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from everloop.models.model import Model, detach
from everloop.models.modes import evaluating

LAGS = 4  # so many windows back the data is searched for what returns


@dataclass(frozen=True)
class Returning:
    """What a stream says again: `share` of its symbols are those of `lag` steps before, `chance` were if by chance."""

    lag: int
    share: float
    chance: float


@dataclass(frozen=True)
class CarriedState:
    """What the state that a window of a stream hands on is worth to the next one, on a split of the data.

    loss: with it; empty: with the initial state in its place; error: the standard error of their difference, by window.
    """

    split: str
    loss: float
    empty: float
    error: float

    @property
    def is_used(self) -> bool:
        """Whether the loss is larger without it, by a thousandth and more than chance."""
        return self.empty - self.loss > max(2 * self.error, 1e-3 * self.loss)

    def __str__(self) -> str:
        used = "used" if self.is_used else "hardly used"
        return f"{used}: the loss ({self.split}) is {self.loss:.4g} with it, {self.empty:.4g} with an empty one instead"


@dataclass(frozen=True)
class TrainingFacts:
    """A training run in numbers.

    losses, valid: (step, loss); norms: of the gradient before clipping, and clip_norm, where it was cut; ratios: the
    root mean square of an update, at the highest learning rate, over that of the weights, by parameter, gate by gate
    where they are stacked; frozen: parameters that were never updated; chance: the loss of guessing all symbols
    alike; entropy: that of guessing by how frequent each target is; carries: whether a stream hands its state
    on to the next window; carried: what that state is worth there; returning: how far back the data repeats itself;
    window: steps that gradients see.
    """

    losses: Sequence[tuple[int, float]] = ()
    valid: Sequence[tuple[int, float]] = ()
    norms: Sequence[float] = ()
    clip_norm: float = math.inf
    ratios: Mapping[str, float] = field(default_factory=dict)
    frozen: Sequence[str] = ()
    chance: float | None = None
    entropy: float | None = None
    carries: bool | None = None
    carried: CarriedState | None = None
    returning: Returning | None = None
    window: int | None = None

    @property
    def final_loss(self) -> float | None:
        """The mean loss of the last tenth of training."""
        if not self.losses:
            return None
        last = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(loss for _, loss in last) / len(last)

    def __str__(self) -> str:
        return "\n".join(f"training: {line}" for line in self.lines())

    def lines(self) -> Iterator[str]:
        """Yield what is known, each in a sentence."""
        if self.losses:
            even = "" if self.chance is None else f" (guessing all alike: {self.chance:.4g})"
            yield f"first loss {self.losses[0][1]:.4g}{even}, of the last tenth {self.final_loss:.4g}"
        if self.norms and math.isfinite(self.clip_norm):
            yield f"{self.clipped:.0%} of the gradients that were noted were clipped, at {self.clip_norm:g}"
        if self.ratios:
            (least, low), (most, high) = (of(self.ratios.items(), key=lambda item: item[1]) for of in (min, max))
            yield f"updates are {low:.1e} ({least}) to {high:.1e} ({most}) of the weights; 1e-3 is usual"
        if self.carries is not None:
            worth = "" if self.carried is None else f" and {self.carried}"
            yield f"the state is {'' if self.carries else 'not '}handed on to the next window{worth}"

    @property
    def is_falling(self) -> bool:
        """Whether the loss of the last quarter of training is below that of the quarter before, by 2 % and more."""
        count = len(self.losses) // 4
        before, last = ([loss for _, loss in self.losses[len(self.losses) - n * count :][:count]] for n in (2, 1))
        return bool(count) and sum(last) < 0.98 * sum(before)

    @property
    def clipped(self) -> float:
        """The share of gradients that were clipped, of those that were noted."""
        return sum(norm > self.clip_norm for norm in self.norms) / max(1, len(self.norms))


def read_metrics(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return losses, valid and norms, as TrainingFacts has them, from the lines of metrics of a run."""
    # where every step was skipped there is no loss, and no norm of a gradient that had an effect
    train = [line for line in lines if line.get("split") == "train" and "loss" in line]
    valid = [line for line in lines if line.get("split") == "valid"]
    return {
        "losses": [(line["step"], line["loss"]) for line in train],
        "valid": [(line["step"], line["loss"]) for line in valid],
        "norms": [line["norm"] for line in train if "norm" in line],
    }


Moments = Mapping[str, Mapping[str, Tensor]]  # of AdamW: exp_avg, exp_avg_sq and step, by the name of the parameter


def update_ratios(model: nn.Module, moments: Moments, lr: float, betas: tuple[float, float]) -> dict[str, float]:
    """Return how large an AdamW update is beside the weights, for each matrix, gate by gate where they are stacked.

    Weights that training has blown up count as fresh ones, of variance 1 / (3 columns). About 1e-3 is usual (Karpathy,
    "Neural networks: zero to hero", lecture 4).
    """
    found: dict[str, float] = {}
    for name, weight in model.named_parameters():
        if weight.ndim < 2 or name not in moments:
            continue
        state, steps = moments[name], float(moments[name]["step"])
        first, second = state["exp_avg"] / (1 - betas[0] ** steps), state["exp_avg_sq"] / (1 - betas[1] ** steps)
        update = lr * first / (second.sqrt() + 1e-8)
        for label, rows in _blocks(model, name, weight):
            size = weight.detach()[rows].square().mean().sqrt().clamp_max((3 * weight.shape[1]) ** -0.5)
            found[label] = float(update[rows].square().mean().sqrt() / size.clamp_min(1e-12))
    return found


def _blocks(model: nn.Module, name: str, weight: Tensor) -> list[tuple[str, slice]]:
    """Return the gates stacked in a matrix of a cell, with their rows; the whole of any other."""
    cell = model.get_submodule(name.rpartition(".")[0])
    gates: tuple[str, ...] = getattr(type(cell), "gates", ())
    hidden = getattr(cell, "hidden_size", 0)
    if not gates or not isinstance(hidden, int) or weight.shape[0] != len(gates) * hidden:
        return [(name, slice(None))]
    return [(f"{name} of gate {gate}", slice(k * hidden, (k + 1) * hidden)) for k, gate in enumerate(gates)]


def frozen_parameters(model: nn.Module, moments: Moments) -> tuple[str, ...]:
    """Return the parameters that no update has changed: without a gradient, or with one that was always 0."""
    names = [name for name, _ in model.named_parameters()]
    return tuple(name for name in names if name not in moments or not bool(moments[name]["exp_avg_sq"].any()))


def chance_loss(model: Model) -> float | None:
    """Return the loss of a model that finds all symbols or labels equally probable; None where it counts otherwise."""
    config = model.config
    if (
        model.measure != "nats"
        or not (model.symbols or model.labels_each)
        or getattr(config, "output", "") == "several"
    ):
        return None
    heads = [block for block in model.outline().strands[-1].after if block.name == "head"]
    return math.log(heads[0].writes) if heads and heads[0].writes > 1 else None


def targets_of(batch: Any) -> Tensor | None:
    """Return the symbols or labels [N] that a batch asks for; None where it asks for numbers."""
    targets = next((t for name in ("y", "targets") if isinstance(t := getattr(batch, name, None), Tensor)), None)
    if targets is None or targets.is_floating_point():
        return None
    exists = getattr(batch, "exists", None)
    return targets[exists] if isinstance(exists, Tensor) and exists.shape == targets.shape else targets.flatten()


def target_entropy(batches: Sequence[Any]) -> float | None:
    """Return the loss of a model that knows how frequent each target is, and nothing else."""
    found = [t for batch in batches if (t := targets_of(batch)) is not None]
    if not found:
        return None
    counts = torch.bincount(torch.cat(found)).double()
    share = counts[counts > 0] / counts.sum()
    return float(-(share * share.log()).sum())


def returning(windows: Sequence[Any], window: int) -> Returning | None:
    """Return the lag at which a stream repeats itself most, if it does so more often than by chance.

    Only lags at which that is no echo of a nearer one count: the share must stand out from those around it.
    """
    x = torch.cat([w.x for w in windows])
    longest = min(LAGS * window, len(x) - 2)
    if longest < 2:
        return None
    shares = torch.stack([(x[k:] == x[:-k]).double().mean() for k in range(1, longest + 1)])
    counts = torch.bincount(x.flatten()).double()
    chance = float((counts / counts.sum()).square().sum())
    best = int(shares.argmax())
    around = torch.cat([shares[max(0, best - 5) : best], shares[best + 1 : best + 6]])
    noise = 5 * math.sqrt(chance / max(1, x.numel()))
    if float(shares[best]) < max(chance, float(around.median())) + max(0.05, noise):
        return None
    return Returning(best + 1, float(shares[best]), chance)


@torch.no_grad()
def carries_state(model: Model, batch: Any) -> bool | None:
    """Return whether a window hands its state on to the next one; None where a batch holds whole sequences."""
    return model.loss(batch).state is not None if model.streams else None


@torch.no_grad()
def carried_state(model: Model, windows: Sequence[Any], split: str) -> CarriedState | None:
    """Return what the carried state is worth in windows of a stream that follow each other, the first left out.

    None where there are fewer than three, where a batch holds whole sequences, and where no state is handed on.
    """
    if not model.streams or len(windows) < 3:
        return None
    losses, state = [], None
    with evaluating(model):
        for number, window in enumerate(windows):
            if number and state is None:
                return None
            loss = model.loss(window, state)
            if number:
                losses.append((float(loss.total), float(model.loss(window).total), loss.count))
            state = detach(loss.state)
    with_it, empty, counts = torch.tensor(losses, dtype=torch.float64).unbind(1)
    gains = (empty - with_it) / counts
    error = float(gains.std() / math.sqrt(len(gains)))
    return CarriedState(split, float(with_it.sum() / counts.sum()), float(empty.sum() / counts.sum()), error)
