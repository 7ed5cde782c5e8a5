"""What gates and states do while one sequence is read, step by step, and which inputs an output depends on.

Karpathy, Johnson and Fei-Fei, "Visualizing and understanding recurrent networks", 2015 (units over a text); Madsen,
"Visualizing memorization in RNNs", Distill 2019 (connectivity).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from everloop.diagnose.gates import seen
from everloop.diagnose.gradients import arriving, record
from everloop.diagnose.recording import Lane
from everloop.models.model import Model

REACHES = (10, 50)  # lags behind which the share of the past is told


@dataclass(frozen=True)
class Activity:
    """A gate or a state in one sequence.

    layer: which one, as "recurrent, layer 2"; lane: the name of its layers, "recurrent"; values: [T, H], a gate's
    between 0 and 1; after the end of a sequence too where the layers are not told of lengths (decoders).
    """

    layer: str
    lane: str
    name: str
    is_gate: bool
    values: Tensor

    def liveliest(self, count: int) -> list[int]:
        """Return the units that change most from step to step, in their order."""
        return sorted(self.values.var(0, unbiased=False).argsort(descending=True, stable=True)[:count].tolist())


@dataclass(frozen=True)
class Connectivity:
    """Which inputs of one sequence an output depends on.

    lane: the name of the layers; values: [R, T], the norm of the gradient, with respect to each input, of what each
    output brings to the loss; by_step: whether a row is the output of a step, or the one answer to the sequence;
    steps: [R], which step that is.
    """

    lane: str
    values: Tensor
    by_step: bool
    steps: tuple[int, ...]

    @property
    def shares(self) -> Tensor:
        """The values as parts of their row [R, T]."""
        return self.values / self.values.sum(1, keepdim=True).clamp_min(1e-30)

    def older(self, lag: int) -> float:
        """Return the share of the inputs more than `lag` steps before their output, over rows that have such."""
        found = [float(row[: t - lag].sum()) for row, t in zip(self.shares, self.steps, strict=True) if t > lag]
        return sum(found) / max(1, len(found))

    def __str__(self) -> str:
        rows, steps = self.values.shape
        if not self.by_step:
            best = int(self.values[0].argmax())
            return f"{self.lane}: the answer depends most on input {best + 1} of {steps} ({self.shares[0, best]:.0%})"
        told = [f"{self.older(lag):.1%} on inputs more than {lag} steps before" for lag in REACHES if lag + 1 < steps]
        depend = (
            f"outputs depend to {', to '.join(told)}" if told else f"{rows} outputs, which depend on {steps} inputs"
        )
        return f"{self.lane}: {depend}"


def activities(model: Model, batch: Any, row: int = 0) -> list[Activity]:
    """Return what each gate and each state does in one sequence of a batch.

    Args:
        model: as `diagnose` takes it.
        batch: as `model.loss` takes it.
        row: which sequence.

    Raises:
        UnsupportedError: the model runs no recurrent layers on the whole sequence.
    """
    return activities_of(record(model, batch), row)


def activities_of(lanes: Sequence[Lane], row: int = 0) -> list[Activity]:
    """Return the activities of one sequence of recorded lanes."""
    found: list[Activity] = []
    for lane, track in [(one, track) for one in lanes for track in one.tracks]:
        if row >= track.valid.shape[1] or not bool(track.valid[:, row].any()):
            continue
        gates, _ = seen(track)
        of_row = track.valid.nonzero()[:, 1] == row
        found += [Activity(track.layer, lane.name, name, True, rows[of_row]) for name, rows in gates.items()]
        states = track.stacked(track.after)
        steps = track.valid[:, row]
        found += [Activity(track.layer, lane.name, name, False, rows[steps, row]) for name, rows in states.items()]
    return found


def connectivity(model: Model, batch: Any, row: int = 0) -> list[Connectivity]:
    """Return which inputs of one sequence the outputs of a model depend on, for each call of its recurrent layers.

    Arguments and errors are those of `activities`.
    """
    return connectivity_of(model, record(model, batch), row)


def connectivity_of(
    model: Model, lanes: Sequence[Lane], row: int = 0, outputs: int | None = None
) -> list[Connectivity]:
    """Return the connectivity of one sequence of recorded lanes; where `outputs` is given, of so many last outputs."""
    strands = model.outline().strands
    found: list[Connectivity] = []
    for lane, grads in zip(lanes, arriving(lanes), strict=True):
        x = lane.inputs
        if x is None or row >= x.shape[1] or not bool(lane.tracks[0].valid[:, row].any()):
            continue
        module = model.get_submodule(lane.name)
        by_step = any(s.recurrent is module and s.writes and not s.pooling for s in strands)
        steps = lane.tracks[0].valid[:, row].nonzero()[:, 0].tolist()
        ends = [(o[:, row], True) for o in lane.outputs] + [(o[row], False) for o in lane.finals]
        last = steps[-outputs:] if outputs and by_step else steps
        signals: list[Tensor] = []
        for (end, is_output), grad in zip(ends, grads, strict=True):
            if grad is not None and end.requires_grad and (is_output or not by_step):
                product = end * (grad[:, row] if is_output else grad[row])
                signals.append(product[last].sum(-1) if by_step else product.sum()[None])
        if signals:
            values = _norms(torch.stack(signals).sum(0), x, row)[:, steps]
            found.append(Connectivity(lane.name, values, by_step, tuple(range(len(steps)))[-len(values) :]))
    return found


def _norms(signals: Tensor, x: Tensor, row: int) -> Tensor:
    """Return the norms [R, T] of the gradients of numbers [R] with respect to the inputs of one sequence."""
    each = torch.eye(len(signals), dtype=signals.dtype, device=signals.device)
    (grads,) = torch.autograd.grad(signals, x, each, retain_graph=True, is_grads_batched=True)
    return grads[:, :, row].norm(dim=-1)  # type: ignore[no-any-return]
