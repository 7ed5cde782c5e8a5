"""The Jacobian of a step: its largest singular value, and the Lyapunov exponents of the states.

Vogt, Puelma Touzel, Shlizerman and Lajoie, "On Lyapunov exponents for RNNs", 2020; Pascanu, Mikolov and Bengio, 2013.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call
from everloop.diagnose.recording import Track
from everloop.layers.dispatch import run

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

    Above 0 two nearby states move apart (chaos, exploding gradients); far below 0 the past is forgotten. By QR of the
    products of transposed step Jacobians, from the last step to the first, as gradients run: a product and its
    transpose have the same singular values. On the first sequences; those of a stack are those of its layers together.
    """
    size = sum(track.cell.state_sizes.values())
    count, rows = min(count, size), min(ROWS, track.valid.shape[1])
    start = torch.randn(rows, size, count, generator=torch.Generator().manual_seed(0)).to(track.x)
    basis, total, steps = torch.linalg.qr(start)[0], torch.zeros(count, dtype=torch.float64), 0
    order = range(len(track.valid))
    for t in order if track.reverse else reversed(order):
        if not bool(track.valid[t, :rows].all()):
            continue
        basis, r = torch.linalg.qr(_transposed_times(track, t, basis))
        total += r.diagonal(dim1=-2, dim2=-1).abs().clamp_min(1e-30).double().log().mean(0)
        steps += 1
    return (total / max(1, steps)).sort(descending=True).values


def largest_singular_values(track: Track) -> Tensor:
    """Return the largest singular value of the step Jacobian at some steps of the first sequence.

    Values below 1 at every step are enough for gradients to vanish; one above 1 is needed for them to explode, and does
    not suffice.
    """
    valid = track.valid[:, 0].nonzero()[:, 0].tolist()
    every = torch.eye(sum(track.cell.state_sizes.values())).to(track.x)[None]
    found = [
        torch.linalg.matrix_norm(_transposed_times(track, t, every)[0], 2)
        for t in valid[:: max(1, len(valid) // SAMPLES)][:SAMPLES]
    ]
    return torch.stack(found) if found else torch.zeros(0)


def _transposed_times(track: Track, t: int, columns: Tensor) -> Tensor:
    """Return the transposed Jacobian of step t, at the first R sequences, times columns [R, N, K].

    One call of the layer over one step, in which each sequence stands K times: a column is a gradient that arrives.
    """
    rows, size, count = columns.shape

    def repeated(tensor: Tensor) -> Tensor:
        return tensor[:rows].detach().repeat_interleave(count, 0)

    values = Bindings(
        {name: tensor.detach() for name, tensor in track.values.fixed.items()},
        {name: repeated(tensor) for name, tensor in track.values.rows.items()},
        {name: repeated(tensor[t])[None] for name, tensor in track.values.steps.items()},
    )
    before = [repeated(steps[t]).requires_grad_() for steps in track.before.values()]
    arriving = torch.split(columns.mT.reshape(rows * count, size), [state.shape[1] for state in before], -1)
    with torch.enable_grad():
        _, after = run(track.cell, Call.of(values, repeated(track.x[t])[None], before), track.target)
        known = [(new, grad) for new, grad in zip(after, arriving, strict=True) if new.requires_grad]
        new, grads = zip(*known, strict=True) if known else ((), ())
        found = torch.autograd.grad(new, before, grads, allow_unused=True, materialize_grads=True)
    return torch.cat(found, -1).view(rows, count, size).mT
