"""The Jacobians of steps: their products, their largest singular values, and the Lyapunov exponents of the states.

Vogt, Puelma Touzel, Shlizerman and Lajoie, "On Lyapunov exponents for RNNs", 2020; Pascanu, Mikolov and Bengio, 2013.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call
from everloop.diagnose.gradients import GradientThroughTime, fitted_rate, half_life
from everloop.diagnose.recording import Track
from everloop.layers.dispatch import run

ROWS, SAMPLES = 4, 8
BURN_IN = 50  # steps at both ends of a stream that exponents leave out
LAGS, WIDTH = 64, 256  # of products: their factors, of states so wide; wider ones have fewer, for time
ALIKE, APART = 0.01, 1 / 3  # a product and a gradient whose rates differ by less, or by a smaller part, agree
LONGEST = (
    "a gradient is the sum over all paths of what this loss asks for, the norm of a product that of the direction which"
    " lasts longest, whether the loss asks for it or not"
)
ABOVE = "a gradient comes by way of the layers above too, and starts at several steps"


@dataclass(frozen=True)
class StepJacobians:
    """What the Jacobians of the steps of a layer do, on data.

    exponents: the first Lyapunov exponents, a step, largest first, over so many steps. products: [K], the norm (largest
    singular value) of the product of the last 0, 1, … step Jacobians of a batch; rate: by which factor it changes with
    each (fitted). smallest, largest: the largest singular value of one step, where it was least and where it was
    greatest.
    """

    layer: str
    exponents: tuple[float, ...]
    steps: int
    products: Tensor
    rate: float
    smallest: float
    largest: float

    @property
    def half_life(self) -> float:
        """Steps after which half of the norm of the product is left; infinite where it does not shrink."""
        return half_life(self.rate)

    def __str__(self) -> str:
        numbers = ", ".join(f"{value:+.3f}" for value in self.exponents)
        return (
            f"{self.layer}: the norm of the product of step Jacobians {pace(self.rate)}, {float(self.products[-1]):.2g}"
            f" after {len(self.products) - 1}; Lyapunov exponents {numbers} a step (over {self.steps}); largest"
            f" singular value of a step {self.smallest:.3g} to {self.largest:.3g}"
        )


def pace(rate: float) -> str:
    """Return how something changes with steps, in words."""
    steps = half_life(rate)
    return f"halves every {steps:.1f} steps" if steps < 1e4 else f"changes {rate:.3g}-fold each step"


def step_jacobians(stream: Sequence[Track]) -> StepJacobians:
    """Return what the Jacobians of the steps of a cell do, in recorded windows of a stream that follow one another."""
    values = largest_singular_values(stream[0])
    ends = (float(values.min()), float(values.max())) if len(values) else (math.nan, math.nan)
    exponents, steps = lyapunov_exponents(stream)
    products = product_norms(stream[0])
    return StepJacobians(stream[0].layer, tuple(exponents.tolist()), steps, products, fitted_rate(products), *ends)


def disagreements(found: Sequence[StepJacobians], gradients: Sequence[GradientThroughTime]) -> list[str]:
    """Return where products of Jacobians and gradients tell different things, and why, each reason in a sentence."""
    reasons: dict[str, list[str]] = {}
    for one in found:
        own = [curve for curve in gradients if curve.layer == one.layer and curve.rate > 0]
        if not own or not one.rate > 0:
            continue
        slowest = max(own, key=lambda curve: curve.rate)
        product, gradient = -math.log(one.rate), -math.log(slowest.rate)
        if abs(product - gradient) > max(ALIKE, APART * max(abs(product), abs(gradient))):
            told = f"{one.layer}: {pace(one.rate)}, the gradient of state {slowest.state} {pace(slowest.rate)}"
            reasons.setdefault(LONGEST if product < gradient else ABOVE, []).append(told)
    return [f"The product of step Jacobians and the gradient differ ({'; '.join(t)}): {w}." for w, t in reasons.items()]


def lyapunov_exponents(stream: Sequence[Track], count: int = 4, burn_in: int = BURN_IN) -> tuple[Tensor, int]:
    """Return the first exponents [count] of a cell on recorded data, per step, largest first, and of how many steps.

    Above 0 two nearby states move apart (chaos, exploding gradients); far below 0 the past is forgotten. By QR of the
    products of transposed step Jacobians, from the last step to the first, as gradients run: a product and its
    transpose have the same singular values. On the first sequences; those of a stack are those of its layers together.

    Args:
        stream: the tracks of the cell in windows that follow one another.
        count: how many.
        burn_in: steps that are left out at the end, where the basis of QR has not turned to the directions that last,
            and at the start, where the state is still empty; at most a quarter of all at each.
    """
    size, rows = sum(stream[0].cell.state_sizes.values()), min(ROWS, *(track.valid.shape[1] for track in stream))
    count = min(count, size)
    start = torch.randn(rows, size, count, generator=torch.Generator().manual_seed(0)).to(stream[0].x)
    basis, logs = torch.linalg.qr(start)[0], []
    for track in reversed(stream):
        for t in _last_first(track, rows):
            basis, r = torch.linalg.qr(_transposed_times(track, t, basis))
            logs.append(r.diagonal(dim1=-2, dim2=-1).abs().clamp_min(1e-30).double().log().mean(0))
    left_out = min(burn_in, len(logs) // 4)
    counted = logs[left_out : len(logs) - left_out]
    mean = torch.stack(counted).mean(0) if counted else torch.zeros(count, dtype=torch.float64)
    return mean.sort(descending=True).values, len(counted)


def product_norms(track: Track) -> Tensor:
    """Return the norms [K] of the products of the last 0, 1, … step Jacobians, largest singular values, in float64.

    The mean of the first sequences. Large states have fewer of them and fewer factors, for time.
    """
    size = sum(track.cell.state_sizes.values())
    small = min(1.0, WIDTH / size)
    rows, lags = min(max(1, int(small * ROWS)), track.valid.shape[1]), max(2, int(small * LAGS))
    product = torch.eye(size).to(track.x).expand(rows, size, size)
    logs, norms = torch.zeros(rows, dtype=torch.float64), [1.0]
    for t in _last_first(track, rows)[:lags]:
        product = _transposed_times(track, t, product)
        norm = torch.linalg.matrix_norm(product, 2).clamp_min(1e-30)
        product = product / norm[:, None, None]
        logs += norm.double().log().cpu()
        norms.append(float(logs.exp().mean()))
    return torch.tensor(norms, dtype=torch.float64)


def _last_first(track: Track, rows: int) -> list[int]:
    """Return the steps that the first sequences all have, in the order in which gradients run."""
    order = range(len(track.valid))
    return [t for t in (order if track.reverse else reversed(order)) if bool(track.valid[t, :rows].all())]


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
