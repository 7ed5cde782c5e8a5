"""Functions of PyTorch that are several in one: attention with masks, padding in every form, what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, tanh
from torch.nn import functional as F

from everloop.cell import Cell, H, I, context, param, size, state
from everloop.compiler.targets import llvm
from everloop.diagnose import agree
from everloop.errors import UnsupportedError
from everloop.layers import Recurrent

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
slots = size("slots")


class Attending(Cell):
    """PyTorch's attention to a memory, with its lengths as a mask of truth values or of numbers."""

    is_added: bool = False

    h = state(H)
    memory = context(slots, H)
    memory_mask: Tensor
    W = param(H, I)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        known = self.memory.unsqueeze(1)
        mask = self.memory_mask[:, None, None, :]
        given: Any = torch.where(mask, 0.0, -3.0) if self.is_added else mask
        read = F.scaled_dot_product_attention(h[:, None, None, :], known, known, given, scale=0.7)
        return tanh(x @ self.W.T + h + read.flatten(1))


@pytest.mark.parametrize("is_added", [False, True])
def test_attention_with_a_mask(is_added: bool) -> None:
    layer = Recurrent(Attending(3, 4, is_added=is_added)).double()
    x, memory = (torch.randn(*shape, dtype=torch.float64) for shape in ((5, 3, 3), (3, 6, 4)))
    found = agree(layer, x, lengths=[5, 0, 3], memory=memory, memory_lengths=[6, 2, 0])
    assert found, str(found)
    assert not found.absent


class Padded(Cell):
    """One way to change a row of 2 x 3 numbers."""

    way: int = 0

    h = state(6)
    W = param(6, I)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        u = x @ self.W.T + h
        a = u.view(u.shape[0], 2, 3)
        ways: list[Any] = [
            lambda: F.pad(a, (1, 2)).flatten(1)[:, 2:8],
            lambda: F.pad(a, (1, -1, 1, 0), value=0.5)[:, 1:].flatten(1),
            lambda: F.pad(a, (-1, 0, 0, 1)).flatten(1),
            lambda: F.pad(a.diff(dim=1), (0, 0, 1, 0)).flatten(1),
            lambda: F.pad(u.diff(2), (1, 1)),
            lambda: F.glu(torch.stack([u, h], 1), 1).squeeze(1),
            lambda: torch.max(u, torch.min(h, u.neg())),
            lambda: F.pad(u, (2, 0), "circular"),
            lambda: u.diff(prepend=u[:, :1]),
            lambda: F.scaled_dot_product_attention(a, a, a, is_causal=True).flatten(1),
        ]
        return tanh(ways[self.way]())


@pytest.mark.parametrize("way", range(7))
def test_the_same_as_eager(way: int) -> None:
    found = agree(Recurrent(Padded(3, 6, way=way)).double(), torch.randn(4, 2, 3, dtype=torch.float64))
    assert found, str(found)
    assert not found.absent


REFUSED = {
    7: "pad in the mode 'circular'",
    8: "write torch.cat before it",
    9: "is_causal or enable_gqa; leave these out",
}


@pytest.mark.parametrize("way", REFUSED)
def test_what_is_refused_says_why(way: int) -> None:
    with pytest.raises(UnsupportedError, match=REFUSED[way]):
        Recurrent(Padded(3, 6, way=way), target="llvm")(torch.randn(2, 1, 3))
