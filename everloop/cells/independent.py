"""The recurrent network whose units are independent of each other."""

from __future__ import annotations

from torch import Tensor, nn, relu

from everloop.cell import Cell, H, I, bias, param, state


class IndRNN(Cell):
    """Each unit sees only its own past, through the weight u.

    Li, Li, Cook, Zhu and Gao, "Independently recurrent neural network (IndRNN)", CVPR 2018.
    """

    h = state(H)
    W, u, b = param(H, I), param(H, init=nn.init.uniform_), bias(H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return relu(x @ self.W.T + self.u * h + self.b)
