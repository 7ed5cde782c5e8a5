"""The gated network whose gate and candidate share their matrices."""

from __future__ import annotations

from torch import Tensor, sigmoid, tanh

from everloop.cell import Cell, H, I, bias, param, state


class FastGRNN(Cell):
    """Gated network with one matrix each for input and state; zeta and nu say how much of a candidate comes in.

    Kusupati, Singh, Bhatia, Kumar, Jain and Varma, "FastGRNN: A fast, accurate, stable and tiny kilobyte sized gated
    recurrent neural network", NeurIPS 2018, section 3.2, with matrices of full rank.

    Shapes: h [B, H].
    """

    h = state(H)
    W, R, b_z, b_n = param(H, I), param(H, H), bias(H, init=1.0), bias(H, init=1.0)
    zeta, nu = param(1, init=1.0), param(1, init=-4.0)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        u = x @ self.W.T + h @ self.R.T
        z = sigmoid(u + self.b_z)
        return (sigmoid(self.zeta) * (1 - z) + sigmoid(self.nu)) * tanh(u + self.b_n) + z * h
