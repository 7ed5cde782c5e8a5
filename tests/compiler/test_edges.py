"""Every element-wise operation at zeros, infinities, NaN, kinks and the ends of the range: values and slopes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everloop.cell import Cell, H, I, param, state
from everloop.compiler.targets import llvm
from everloop.layers import Recurrent

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
INF, NAN = math.inf, math.nan
EDGES = [0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, 1e30, -1e30, 1e-30, -1e-30, 1e-42, -1e-42]
EDGES += [0.3, 3.0, -3.0, 0.5, -0.5, 20.0, 25.0, 100.0, 6.0, 2.5, -2.5]
OTHER = [0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, 1e30, 1e-30, 0.3, 3.0, -3.0, 2.0, -0.5, 1.5]
PAIRS = [(a, b) for a in EDGES for b in OTHER]
Function = Callable[..., Any]
ONE: dict[str, Function] = {
    **{
        f.__name__: f
        for f in (torch.neg, torch.abs, torch.sign, torch.floor, torch.sqrt, torch.rsqrt, torch.exp, torch.expm1,
                  torch.log, torch.log1p, torch.sin, torch.cos, torch.tanh, torch.sigmoid, torch.erf, torch.relu,
                  torch.square, torch.reciprocal, F.elu, F.selu, F.gelu, F.softplus, F.silu, F.mish, F.hardtanh,
                  F.relu6, F.hardswish, F.leaky_relu, F.softsign, F.tanhshrink, F.logsigmoid)
    },
    "gelu tanh": lambda a: F.gelu(a, approximate="tanh"),
    "softplus steep": lambda a: F.softplus(a, beta=2.0, threshold=10.0),
    "prelu": lambda a: F.prelu(a, torch.tensor([0.3], dtype=a.dtype)),
    "clamp": lambda a: a.clamp(-1, 0.5),
    "clamp below": lambda a: a.clamp(min=0.0),
    **{f"power {p}": lambda a, p=p: a**p for p in (0, 1, 2, 3, -1, -2, 9, -9, 0.5, -0.5, 1.5, -1.5, INF, -INF, NAN)},
    **{f"{base} to the power": lambda a, base=base: base**a for base in (0.0, 0.5, 1.0, 2.0, INF)},
    "quotient below": lambda a: torch.div(a, 0.3, rounding_mode="floor"),
    "quotient towards 0": lambda a: torch.div(a, 0.3, rounding_mode="trunc"),
    "inverse quotient": lambda a: torch.div(torch.ones_like(a) * 3.0, a, rounding_mode="floor"),
    "fmod": lambda a: torch.fmod(a, 0.3),
    "bool": lambda a: a.bool() * a,
    "round to hundredths": lambda a: a.round(decimals=2),
    "round to tens": lambda a: torch.round(a, decimals=-1),
}  # fmt: skip
TWO: dict[str, Function] = {
    **{f.__name__: f for f in (torch.add, torch.sub, torch.mul, torch.div, torch.pow, torch.maximum, torch.minimum)},
    "quotient below": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "quotient towards 0": lambda a, b: torch.div(a, b, rounding_mode="trunc"),
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "lerp from the end": lambda a, b: torch.lerp(a, b, 0.7),
    "addcmul": lambda a, b: torch.addcmul(a, a, b),
    "comparisons": lambda a, b: (a < b) * 1.0 + (a <= b) * 2.0 + (a == b) * 4.0 + (a != b) * 8.0,
    "clamp by a row": lambda a, b: a.clamp(min=b),
    "clamp by another": lambda a, b: a.clamp(max=b),
    "clamp by both": lambda a, b: torch.clamp(a, min=-b, max=b),
    "where": lambda a, b: torch.where(a > b, a, b),
}
# Where PyTorch takes the slope of another formula than that of the value, or has several for NaN.
WITHOUT_SLOPE = {
    "power -0.5": [-0.0, 0.0, -INF],
    "power 1.5": [-INF],
    "elu": [NAN],
    "selu": [NAN],
    "clamp by both of two": [NAN],
}


def run(function: Function, columns: list[list[float]], dtype: torch.dtype) -> list[Tensor]:
    """Return values and slopes, of the compiled cell and of PyTorch in both precisions."""
    width = len(columns[0])

    def parts(x: Tensor) -> list[Tensor]:
        return [x[:, k * width : (k + 1) * width] for k in range(len(columns))]

    def step(self: Any, x: Tensor, h: Tensor) -> Tensor:
        return function(*parts(x)) + 0 * h + 0 * self.p

    made = type("Edge", (Cell,), {"h": state(H), "p": param(H, init=1.0), "W": param(1, I), "step": step})
    cell = made(width * len(columns), width).to(dtype)
    x = torch.tensor([[n for column in columns for n in column]], dtype=dtype, requires_grad=True)
    y, _ = Recurrent(cell, target="llvm")(x[None])
    meant = function(*parts(x))
    wide = x.detach().double().requires_grad_()
    found = [slope(y[0], x), slope(meant, x), slope(function(*parts(wide)), wide)]
    return [*(t.detach().double() for t in (y[0], meant)), *found]


def slope(y: Tensor, x: Tensor) -> Tensor:
    if not y.requires_grad:
        return torch.zeros_like(x).double()
    return torch.autograd.grad(y, x, torch.full_like(y, 0.7))[0].double()


def differing(found: Tensor, meant: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Whether a number is none of those meant: of NaN, PyTorch's vector and scalar code may make different things."""
    tolerance = 1e-11 if dtype == torch.float64 else 3e-6
    close = [torch.isclose(found, m, rtol=tolerance, atol=tolerance / 5, equal_nan=True) for m in meant]
    return ~torch.stack(close).any(0)[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", [*ONE, *(f"{name} of two" for name in TWO)])
def test_edges(name: str, dtype: torch.dtype) -> None:
    is_two = name.endswith(" of two")
    columns = [list(c) for c in zip(*PAIRS, strict=True)] if is_two else [EDGES]
    function = TWO[name.removesuffix(" of two")] if is_two else ONE[name]
    y, meant, *slopes = run(function, columns, dtype)
    values = list(zip(*columns, strict=True))
    exact = function(*(torch.tensor([c], dtype=torch.float64) for c in columns)).double()
    exact = exact if dtype == torch.float64 or name in ("gelu", "fmod") else meant
    wrong = differing(y, [meant, exact], dtype)
    assert not [v for v, w in zip(values, wrong, strict=True) if w]
    wrong = differing(slopes[0], slopes[1:], dtype)
    if name in WITHOUT_SLOPE:
        wrong = wrong & ~torch.tensor([v[0] in WITHOUT_SLOPE[name] for v in values]).repeat(len(columns))
    places = [(values[k % len(values)], k // len(values)) for k, w in enumerate(wrong) if w]
    assert not places


ROWS = [[1.0, 2.0, 3.0, -1.0], [INF, 1.0, 2.0, 3.0], [-INF, 1.0, 2.0, 3.0], [INF, INF, 0.0, 1.0], [-INF] * 4,
        [INF, -INF, 0.0, 1.0], [NAN, 1.0, 2.0, 3.0], [1e30, -1e30, 2e30, 0.0], [1e-30, 2e-30, -1e-30, 0.0],
        [5.0] * 4, [0.0] * 4, [1.0, 1.0, 0.0, 0.0], [100.0, -100.0, 50.0, 0.0]]  # fmt: skip
OVER_FEATURES: dict[str, Function] = {
    "sum": lambda a: a.sum(-1, keepdim=True),
    "mean": lambda a: a.mean(-1, keepdim=True),
    "amax": lambda a: a.amax(-1, keepdim=True),
    "amin": lambda a: a.amin(-1, keepdim=True),
    "std": lambda a: a.std(-1, keepdim=True),
    "std of all": lambda a: a.std(-1, unbiased=False, keepdim=True),
    "norm": lambda a: a.norm(dim=-1, keepdim=True),
    "norm of order 1": lambda a: a.norm(1, -1, keepdim=True),
    "norm of order 3": lambda a: torch.linalg.vector_norm(a, 3.0, -1, keepdim=True),
    "normalize by order 1": lambda a: F.normalize(a, p=1.0, dim=-1),
    "softmax": lambda a: a.softmax(-1),
    "log_softmax": lambda a: a.log_softmax(-1),
    "logsumexp": lambda a: a.logsumexp(-1, keepdim=True),
}
# Of these PyTorch has other slopes where a number is none.
OF_FINITE_ROWS: dict[str, Function] = {
    "largest norm": lambda a: torch.linalg.vector_norm(a, INF, -1, keepdim=True),
    "smallest norm": lambda a: torch.linalg.vector_norm(a, -INF, -1, keepdim=True),
    "products so far": lambda a: a.cumprod(-1),
}
FINITE_ROWS = [[0.0, 1.0, 1.0, 2.0], [1.0, -2.0, 0.0, 3.0], [2.0, 2.0, -2.0, 0.5]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", [*OVER_FEATURES, *OF_FINITE_ROWS])
def test_edges_over_features(name: str, dtype: torch.dtype) -> None:
    function = (OVER_FEATURES | OF_FINITE_ROWS)[name]

    def step(self: Any, x: Tensor, h: Tensor) -> Tensor:
        return function(x) + 0 * h + 0 * self.p

    body = {"h": state(H), "p": param(H, init=1.0), "W": param(1, I), "step": step}
    cell = type("Edge", (Cell,), body)(4, function(torch.zeros(1, 4)).shape[-1]).to(dtype)
    rows = ROWS if name in OVER_FEATURES else FINITE_ROWS
    x = torch.tensor([rows], dtype=dtype, requires_grad=True)
    y, meant = Recurrent(cell, target="llvm")(x)[0], function(x)
    weights = torch.randn_like(y)
    rtol, atol = (1e-10, 1e-40) if dtype == torch.float64 else (1e-5, 1e-38)
    torch.testing.assert_close(y, meant, rtol=rtol, atol=atol, equal_nan=True)
    found, expected = (torch.autograd.grad(t, x, weights)[0] for t in (y, meant))
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_products_so_far_are_made_in_order(dtype: torch.dtype) -> None:
    """In another order two large numbers would overflow before they meet the 0 before them."""

    def step(self: Any, x: Tensor, h: Tensor) -> Tensor:
        return x.cumprod(-1) + 0 * h

    layer = Recurrent(type("Edge", (Cell,), {"h": state(H), "p": param(H), "step": step})(4, 4, dtype=dtype))
    large = 1e200 if dtype == torch.float64 else 1e30
    x = torch.tensor([[[0.0, large, large, 2.0]]], dtype=dtype)
    assert "target llvm" in layer.explain()
    torch.testing.assert_close(layer(x)[0], torch.zeros(1, 1, 4, dtype=dtype))
