"""What explain() says is recomputed is what the compiler counts as recomputed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everloop import Cell, H, I, Recurrent, param, state
from everloop.compiler.targets import llvm


class Again(Cell):
    """Functions of the state before, which the gradient asks for anew."""

    h = state(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        u = torch.expm1(-h.square()) * torch.log1p(h.square()) * (1.1 + h.square()) ** 0.3
        return torch.tanh(x @ self.W.T + u @ self.R.T)


@pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
def test_what_is_recomputed_is_said() -> None:
    lines = [line for line in Recurrent(Again(2, 3)).explain().splitlines() if line.startswith("recomputed: ")]
    for function in ("expm1(", "log1p(", "** 0.3"):
        assert any(function in line for line in lines), function
