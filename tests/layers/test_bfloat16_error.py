"""How far bfloat16 is from float64, against the same step in float64 with the factors of its products rounded.

That simulation shares no code with the kernels: it is the cell's own step on tensors of float64, whose products round
both factors to 8 bits, forward and backward (unit roundoff 2^-8), sum exactly, and round the output and its gradient,
those of the parameters too where these have 8 bits. What kernels do besides is smaller (sums in float32: 2^-24 a term;
functions: 2^-15), or of the same size: results of products over whole sequences have 8 bits where they are PyTorch's,
and without a gradient, so that outputs may be off twice as far; so has what is kept for the gradient, which may turn
three times as far.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from everloop import cells
from everloop.layers import Recurrent

LOW = torch.bfloat16
CELLS = ["lstm", "gru", "elman", "peephole-lstm", "layer-norm-lstm", "minimal-gated-unit", "reset-before-gru"]
SIZES = [(1, 1, 40, 48), (7, 3, 33, 65), (40, 5, 24, 40), (12, 40, 64, 96)]  # steps, batch, input, hidden


def low(tensor: Tensor) -> Tensor:
    return tensor.to(LOW).double()


class Product(torch.autograd.Function):
    """a @ b of matrices, every factor rounded, forward and backward."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return low(a) @ low(b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return low(grads[0]) @ low(b).T, low(a).T @ low(grads[0])


class Rounded(torch.autograd.Function):
    """A number rounded, and its gradient."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return low(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return low(grads[0])


class Rounding(TorchFunctionMode):
    """Products of matrices round their factors."""

    count = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.Tensor.__matmul__, torch.Tensor.matmul, torch.matmul, torch.mm):
            self.count += 1
            return Product.apply(*args)  # type: ignore[no-untyped-call]
        assert function is not F.linear, "another way to write a product"
        return function(*args, **(kwargs or {}))


def run_by_steps(layer: Recurrent, x: Tensor) -> Tensor:
    state, rows = layer.cell.zeros(x.shape[1], like=x), []
    for row in x:
        found = layer.cell.step(row, *state)
        state = found if isinstance(found, tuple) else (found,)
        rows.append(state[0])
    return torch.stack(rows)


def results(layer: Recurrent, x: Tensor, target: Tensor, run: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return the outputs, and the gradient of the parameters, of half the squared distance to a target."""
    layer.zero_grad()
    y = run(x)
    (y.double() - target).square().sum().div(2).backward()  # type: ignore[no-untyped-call]
    grads = [p.grad.double().flatten() for p in layer.parameters() if p.grad is not None]
    return y.detach().double(), torch.cat(grads)


def angle(a: Tensor, b: Tensor) -> float:
    return math.acos(min(float(a @ b / (a.norm() * b.norm())), 1.0))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("mode", ["autocast", "layer"])
def test_error_is_that_of_rounded_factors(mode: str, name: str, sizes: tuple[int, int, int, int]) -> None:
    steps, batch, inner, hidden = sizes
    torch.manual_seed(sum(sizes))
    layer = Recurrent(cells.named(name)(inner, hidden))
    x = torch.randn(steps, batch, inner)
    if mode == "layer":  # whose numbers have 8 bits from the beginning
        layer, x = layer.to(LOW), x.to(LOW)
    target = torch.randn(steps, batch, hidden).double()
    exact = Recurrent(cells.named(name)(inner, hidden)).double()
    exact.load_state_dict({key: value.double() for key, value in layer.state_dict().items()})

    with torch.autocast("cpu", LOW, enabled=mode == "autocast"):
        y, gradient = results(layer, x, target, lambda x: layer(x)[0])
        with torch.no_grad():
            without = layer(x)[0].double()
    want, gradient_of = results(exact, x.double(), target, lambda x: run_by_steps(exact, x))
    with Rounding() as rounding:
        model, modelled = results(exact, x.double(), target, lambda x: Rounded.apply(run_by_steps(exact, x)))  # type: ignore[no-untyped-call]
    modelled = low(modelled) if mode == "layer" else modelled
    assert rounding.count >= steps
    most, unit = (model - want).abs().max(), 2.0**-8 * want.abs().max()
    for found in (y, without):
        assert (found - want).norm() <= 2 * (model - want).norm()
        assert (found - want).abs().max() <= 2 * most + unit
    assert angle(gradient, gradient_of) <= 3 * angle(modelled, gradient_of)
