"""Each parameter's gradient has memory of its own: what is added to one, or clipped, does not change another."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from everloop import Cell, H, I, Recurrent, bias, param, state

D = torch.float64


class Biases(Cell):
    """Two products, each with a bias, whose gradients are one."""

    h, s = state(H), state(2)
    W, U, P = param(2, I), param(H, 2), param(H, I)
    b, d = bias(H), bias(H)

    def step(self, x: Tensor, h: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        s = x @ self.W.T + s
        return F.linear(s, self.U, self.b) + F.linear(x, self.P, self.d) + h, s


def test_gradients_add_up_and_are_clipped_once() -> None:
    layer = Recurrent(Biases(3, 4, dtype=D), target="llvm")
    x = torch.randn(5, 2, 3, dtype=D)
    once = torch.autograd.grad(layer(x)[0].square().sum(), list(layer.parameters()))
    y = layer(x)[0].square().sum()
    for _ in range(2):
        y.backward(retain_graph=True)
    found = [p.grad for p in layer.parameters()]
    torch.testing.assert_close(found, [2 * g for g in once])
    norm = torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    torch.testing.assert_close([p.grad for p in layer.parameters()], [2 * g / norm for g in once])
    assert len({g.data_ptr() for g in found if g is not None}) == len(found)
