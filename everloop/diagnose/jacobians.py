"""The Jacobian of a step: its largest singular value, and the Lyapunov exponents of the states.

Vogt, Puelma Touzel, Shlizerman and Lajoie, "On Lyapunov exponents for RNNs", 2020; Pascanu, Mikolov and Bengio, 2013.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from everloop.binding import bind
from everloop.diagnose.recording import Track
from everloop.step import advance

ROWS, SAMPLES = 4, 8


@dataclass(frozen=True)
class StepJacobians:
    """What the Jacobians of the steps of a layer do, on data.

    exponents: the first Lyapunov exponents, a step, largest first; their products grow by exp of the first. smallest,
    largest: the largest singular value of one step, where it was least and where it was greatest.
    """

    layer: str
    exponents: tuple[float, ...]
    smallest: float
    largest: float

    def __str__(self) -> str:
        numbers = ", ".join(f"{value:+.3f}" for value in self.exponents)
        return (
            f"{self.layer}: Lyapunov exponents {numbers} a step: products of step Jacobians change"
            f" {math.exp(self.exponents[0]):.3g}-fold each step; largest singular value of a step"
            f" {self.smallest:.3g} to {self.largest:.3g}"
        )


def step_jacobians(track: Track) -> StepJacobians:
    """Return what the Jacobians of the steps of a recorded layer do."""
    values = largest_singular_values(track)
    ends = (float(values.min()), float(values.max())) if len(values) else (math.nan, math.nan)
    return StepJacobians(track.layer, tuple(lyapunov_exponents(track).tolist()), *ends)


def lyapunov_exponents(track: Track, count: int = 4) -> Tensor:
    """Return the first exponents [count] of a cell on the data it was recorded with, per step, largest first.

    Above 0 two nearby states move apart (chaos, exploding gradients); far below 0 the past is forgotten. By QR
    of the products of step Jacobians, on the first sequences. Those of a stack are those of its layers together.
    """
    size = sum(track.cell.state_sizes.values())
    count, rows = min(count, size), min(ROWS, track.valid.shape[1])
    start = torch.randn(rows, size, count, generator=torch.Generator().manual_seed(0)).to(track.x)
    basis, total, steps = torch.linalg.qr(start)[0], torch.zeros(count, dtype=torch.float64), 0
    order = range(len(track.valid))
    for t in reversed(order) if track.reverse else order:
        if not bool(track.valid[t, :rows].all()):
            continue
        step, at = _step(track, t, slice(0, rows))
        basis, r = torch.linalg.qr(_times(step, at, basis))
        total += r.diagonal(dim1=-2, dim2=-1).abs().clamp_min(1e-30).double().log().mean(0)
        steps += 1
    return total / max(1, steps)


def largest_singular_values(track: Track) -> Tensor:
    """Return the largest singular value of the step Jacobian at some steps of the first sequence.

    Values below 1 at every step are enough for gradients to vanish; one above 1 is needed for them to explode, and does
    not suffice.
    """
    valid = track.valid[:, 0].nonzero()[:, 0].tolist()
    found = []
    for t in valid[:: max(1, len(valid) // SAMPLES)][:SAMPLES]:
        step, at = _step(track, t, slice(0, 1))
        jacobian = _times(step, at, torch.eye(at.shape[1]).to(at)[None])[0]
        found.append(torch.linalg.matrix_norm(jacobian, 2))
    return torch.stack(found) if found else torch.zeros(0)


def _step(track: Track, t: int, rows: slice) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Return step t as a function of all states side by side [R, N], and these states before it."""
    sizes = list(track.cell.state_sizes.values())
    own: dict[str, Any] = {name: tensor[rows] for name, tensor in track.values.rows.items()}
    own |= {name: tensor[t, rows] for name, tensor in track.values.steps.items()}
    cell = bind(track.cell, {name: tensor.detach() for name, tensor in (track.values.fixed | own).items()})
    at = torch.cat([found[t][rows].detach() for found in track.before.values()], -1)

    def step(state: Tensor) -> Tensor:
        _, after = advance(cell, track.x[t, rows], torch.split(state, sizes, -1))
        return torch.cat([new.expand(len(state), n) for new, n in zip(after, sizes, strict=True)], -1)

    return step, at


def _times(step: Callable[[Tensor], Tensor], at: Tensor, columns: Tensor) -> Tensor:
    """Return the Jacobian of a step, at rows [R, N], times columns [R, N, K]."""
    with torch.enable_grad():
        at = at.detach().requires_grad_()
        after = step(at)
        dual = torch.zeros_like(after, requires_grad=True)
        (back,) = torch.autograd.grad(after, at, dual, create_graph=True)
        # what a vector is turned into backwards is linear in it, and its own gradient runs forwards
        found = [torch.autograd.grad(back, dual, column, retain_graph=True)[0] for column in columns.unbind(-1)]
    return torch.stack(found, -1)
