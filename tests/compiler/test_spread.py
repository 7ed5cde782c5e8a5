"""Lengths and deviations of rows, whose gradient has no limit where they are zero: PyTorch takes zero there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from everloop.cell import Cell, H, param, state
from everloop.compiler.targets import llvm
from everloop.layers import Recurrent

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
D = torch.float64

MEASURES: dict[str, Callable[[Tensor], Tensor]] = {
    "norm": lambda a: a.norm(dim=-1, keepdim=True),
    "norm of order 2": lambda a: torch.norm(a, 2, -1, True),
    "vector_norm": lambda a: torch.linalg.vector_norm(a, 2, -1, True),
    "vector_norm by its names": lambda a: torch.linalg.vector_norm(x=a, ord=3, dim=-1, keepdim=True),
    "linalg.norm": lambda a: torch.linalg.norm(a, dim=-1, keepdim=True),
    "linalg.norm of order 1": lambda a: torch.linalg.norm(a, ord=1, dim=-1, keepdim=True),
    "std": lambda a: a.std(-1, keepdim=True),
    "std of all": lambda a: a.std(-1, correction=0, keepdim=True),
    "std, biased": lambda a: a.std(-1, unbiased=False, keepdim=True),
    "std of more than there are": lambda a: a.std(-1, correction=2, keepdim=True),
    "var": lambda a: a.var(-1, keepdim=True),
    "var of all": lambda a: a.var(-1, correction=0, keepdim=True),
}
ROWS = {"zero": 0.0, "constant": 0.3, "large and constant": 1e3, "any": None}


def cell_of(measure: Callable[[Tensor], Tensor], hidden: int) -> Cell:
    """A cell that measures what enters it, and twice what it carries."""

    def step(self: Any, x: Tensor, h: Tensor) -> Tensor:
        size, carried = measure(x), measure(h)
        return (x + 0.5 * h) / (size + 1) + self.w * torch.tanh(size) * carried - carried / (carried + 1)

    return type("Measuring", (Cell,), {"h": state(H), "w": param(H), "step": step})(hidden, hidden, dtype=D)


def results(cell: Cell, x: Tensor, start: Tensor, target: Literal["eager", "llvm"]) -> list[Tensor]:
    inputs = [x.clone().requires_grad_(), start.clone().requires_grad_()]
    y, _ = Recurrent(cell, target=target)(inputs[0], (inputs[1],))
    return [y, *torch.autograd.grad(y.square().sum(), [*inputs, *cell.parameters()])]


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("hidden", [1, 5, 49])
def test_values_and_gradients_are_those_of_pytorch(name: str, row: str, hidden: int) -> None:
    torch.manual_seed(0)
    cell, height = cell_of(MEASURES[name], hidden), ROWS[row]
    x, start = torch.randn(6, 3, hidden, dtype=D), torch.randn(3, hidden, dtype=D)
    if height is not None:
        x[::2], x[1, 1], start[:2] = height, height, height
    expected, found = (results(cell, x, start, target) for target in ("eager", "llvm"))
    undefined = (
        hidden == 1 and name.startswith(("std", "var")) and name not in ("std of all", "std, biased", "var of all")
    )
    assert undefined or all(e.isfinite().all() for e in expected)
    for e, f in zip(expected, found, strict=True):
        largest = float(e.detach().abs().nan_to_num().max())
        torch.testing.assert_close(f, e, rtol=0, atol=1e-13 * hidden * max(1.0, largest), equal_nan=True)


def test_the_root_itself_keeps_its_slope() -> None:
    class Root(Cell):
        h = state(H)
        w = param(H)

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.sqrt(x) + x**0.5 + self.w * h

    x, start = torch.tensor([0.0, 4.0], dtype=D).expand(2, 1, 2), torch.zeros(1, 2, dtype=D)
    cell = Root(2, 2, dtype=D)
    expected, found = (results(cell, x, start, target) for target in ("eager", "llvm"))
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert not found[1][-1, 0, 0].isfinite()
    assert found[1][-1, 0, 1].isfinite()
