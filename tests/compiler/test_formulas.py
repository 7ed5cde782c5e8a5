"""Functions that are formulas of others in a kernel: as exact as PyTorch's, at every size, at the ends and for NaN."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from everloop.cell import Cell, H, state
from everloop.compiler.targets import llvm
from everloop.layers import Recurrent

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
# Of each function the C library's (through NumPy) and its slope, in forms that lose no digits.
EXACT: dict[str, tuple[Any, Any]] = {
    "tan": (np.tan, lambda a: np.cos(a) ** -2),
    "asin": (np.arcsin, lambda a: ((1 - a) * (1 + a)) ** -0.5),
    "acos": (np.arccos, lambda a: -(((1 - a) * (1 + a)) ** -0.5)),
    "atan": (np.arctan, lambda a: 1 / (1 + a * a)),
    "sinh": (np.sinh, np.cosh),
    "cosh": (np.cosh, np.sinh),
    "asinh": (np.arcsinh, lambda a: 1 / np.hypot(1, a)),
    "acosh": (np.arccosh, lambda a: ((a - 1) * (a + 1)) ** -0.5),
    "atanh": (np.arctanh, lambda a: 1 / ((1 - a) * (1 + a))),
    "log2": (np.log2, lambda a: 1 / (a * math.log(2))),
    "log10": (np.log10, lambda a: 1 / (a * math.log(10))),
    "exp2": (np.exp2, lambda a: np.exp2(a) * math.log(2)),
    "erf": (np.vectorize(math.erf), lambda a: 2 / math.sqrt(math.pi) * np.exp(-a * a)),
    "erfc": (np.vectorize(math.erfc), lambda a: -2 / math.sqrt(math.pi) * np.exp(-a * a)),
}
ENDS = [0.0, 1.0, 2.0, 88.9, 709.9, 1e-30, 1e4, 1e8, 1e15, 1e30, math.inf]


class Function(Cell):
    """One function of the state, so that it runs inside the kernel."""

    name: str = "tan"

    h = state(H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return getattr(torch, self.name)(h + x)


def numbers(dtype: torch.dtype) -> Tensor:
    sizes = torch.cat([torch.tensor(ENDS, dtype=torch.float64), torch.logspace(-6, 3, 400, dtype=torch.float64)])
    inside = torch.linspace(-1.5, 1.5, 601, dtype=torch.float64)
    near = 1 + torch.logspace(-7, 0, 50, dtype=torch.float64)
    return torch.cat([sizes, -sizes, inside, near, -near, 2 - near, near - 2, torch.tensor([math.nan])]).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("name", EXACT)
def test_values_and_slopes(name: str, dtype: torch.dtype) -> None:
    x = numbers(dtype)
    layer = Recurrent(Function(1, len(x), name=name, dtype=dtype), target="llvm")
    start = x[None].requires_grad_()
    y, _ = layer(torch.zeros(1, 1, 1, dtype=dtype), (start,))
    slope = torch.autograd.grad(y.sum(), start)[0][0]
    value, derivative = (torch.from_numpy(f(x.detach().double().numpy())).to(dtype) for f in EXACT[name])
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    torch.testing.assert_close(y[0, 0].detach(), value, rtol=16 * eps, atol=tiny, equal_nan=True)
    is_in = derivative.isfinite() & (x.abs() < 1e18)  # whose square is a number
    torch.testing.assert_close(slope[is_in], derivative[is_in], rtol=32 * eps, atol=tiny)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "base"), [("log2", 2.0), ("log10", 10.0)])
def test_logarithms_of_powers_are_whole(name: str, base: float, dtype: torch.dtype) -> None:
    whole = torch.arange(-30, 31) if base == 2 else torch.arange(0, 11)
    x = (torch.tensor(base, dtype=torch.float64) ** whole).to(dtype)
    y, _ = Recurrent(Function(1, len(x), name=name, dtype=dtype))(torch.zeros(1, 1, 1, dtype=dtype), (x[None],))
    assert y[0, 0].tolist() == whole.tolist()


class Rest(Cell):
    """The state is a number and its divisor side by side."""

    name: str = "remainder"

    h = state(H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        a, b = h.chunk(2, -1)
        rest = getattr(torch, self.name)(a, b)
        return torch.cat([rest, rest], -1)


@pytest.mark.parametrize("name", ["remainder", "fmod"])
def test_the_gradient_of_a_rest_where_the_quotient_is_rounded_to_a_whole_number(name: str) -> None:
    """1 / 0.1 is 10 when rounded, while the divisor of float32 fits in nine times: PyTorch's two gradients differ."""
    a = torch.tensor([1.0, -1.0, 0.7, 6.0, -0.3, 0.5])
    b = torch.tensor([0.1, 0.1, -0.1, 0.2, 0.1, 2.0])
    found = []
    for target in ("llvm", "eager"):
        start = torch.cat([a, b])[None].requires_grad_()
        y, _ = Recurrent(Rest(1, 12, name=name), target=target)(torch.zeros(1, 1, 1), (start,))
        found.append((y.detach(), *torch.autograd.grad(y.sum(), start)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_logit_has_no_gradient_where_it_is_no_number() -> None:
    start = torch.tensor([[-0.5, 0.25, 0.5, 1.5]], requires_grad=True)
    y, _ = Recurrent(Function(1, 4, name="logit"), target="llvm")(torch.zeros(1, 1, 1), (start,))
    (slope,) = torch.autograd.grad(y.sum(), start)
    expected = torch.tensor([[math.nan, 16 / 3, 4.0, math.nan]])
    torch.testing.assert_close(slope, expected, equal_nan=True)


@pytest.mark.parametrize("name", ["asinh", "atan", "ceil", "erf", "round", "sin", "sinh", "tan", "trunc"])
def test_a_negative_zero_stays_one(name: str) -> None:
    start = torch.tensor([[-0.0, 0.0]])
    layer = Recurrent(Function(1, 2, name=name), target="llvm")
    y, _ = layer(torch.full((1, 1, 1), -0.0), (start,))
    assert y[0].signbit().tolist() == getattr(torch, name)(start).signbit().tolist()
