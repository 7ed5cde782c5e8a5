"""Convolutions inside a step: as a matrix, the same as PyTorch's; what is not compiled says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn, tanh
from torch.nn.functional import conv1d, conv2d

from everloop.cell import Cell, H, I, param, state
from everloop.compiler.targets import llvm
from everloop.diagnose import agree
from everloop.errors import UnsupportedError
from everloop.layers import Recurrent

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")


class Filtered(Cell):
    """A row of 12 numbers in 2 channels, convolved in a way that is given."""

    h = state(12)
    W, K, k = param(12, I), param(4, 2, 3), param(4)
    way: str = "plain"

    def step(self, x: Tensor, h: Tensor) -> Any:
        a = h.view(h.shape[0], 2, 6)
        if self.way == "plain":
            y = conv1d(a, self.K, self.k, padding=1)
        elif self.way == "strided":
            y = conv1d(a, self.K, stride=2, padding=(2,))
        elif self.way == "dilated":
            y = conv1d(a, self.K, self.k, 1, "same", 2)
        elif self.way == "groups":
            y = conv1d(a, self.K[:, :1], None, padding="same", groups=2)
        elif self.way == "image":
            y = conv2d(a.unsqueeze(-1), self.K.unsqueeze(-1), self.k, padding=(1, 0)).squeeze(-1)
        else:
            y = torch.conv1d(a, self.K * 2, self.k.exp())
        return tanh(x @ self.W.T + y.flatten(1)[:, :12])


@pytest.mark.parametrize("way", ["plain", "strided", "dilated", "groups", "image", "of parameters"])
def test_the_same_as_eager(way: str) -> None:
    layer = Recurrent(Filtered(3, 4, way=way)).double()
    found = agree(layer, torch.randn(5, 3, 3, dtype=torch.float64), lengths=[5, 0, 3])
    assert found, str(found)
    assert not found.absent


class Deep(Cell):
    """A module of PyTorch inside a cell."""

    h = state(H)
    W = param(H, I)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.filter = nn.Conv1d(1, 1, 3, padding=1)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return tanh(x @ self.W.T + self.filter(h.unsqueeze(1)).squeeze(1))


def test_a_module() -> None:
    layer = Recurrent(Deep(3, 7))
    found = agree(layer, torch.randn(5, 3, 3))
    assert found, str(found)
    assert not found.absent


def test_large_ones_are_left_to_eager() -> None:
    with pytest.raises(UnsupportedError, match=r"conv1d of 600 features to 600: as one matrix.*eager runs it"):
        Recurrent(Deep(3, 600), target="llvm")(torch.randn(2, 1, 3))


class Computed(Cell):
    h = state(H)
    K = param(1, 1, 3)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return conv1d(self.K, h.unsqueeze(1)).flatten(1)


def test_a_kernel_that_a_step_computes_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"conv1d other than of rows \[B, C, …\] with a parameter"):
        Recurrent(Computed(3, 3), target="llvm")(torch.randn(2, 1, 3))
