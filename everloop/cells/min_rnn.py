"""The smallest gated networks: no gate and no candidate reads the state."""

from __future__ import annotations

import torch
from torch import Tensor, sigmoid

from everloop.cell import Cell, H, I, bias, param, state


class MinGRU(Cell):
    """GRU without recurrent products: h = (1 - z) * h + z * n.

    Feng, Tung, Ahmed, Bengio and Hajimirsadeghi, "Were RNNs all we needed?", 2024, section 3.1. Rows of W and b are
    z, n.

    Shapes: h [B, H].
    """

    gates = ("z", "n")

    h = state(H)
    W, b = param(2 * H, I), bias(2 * H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        z, n = (x @ self.W.T + self.b).chunk(2, -1)
        return torch.lerp(h, n, sigmoid(z))


class MinLSTM(Cell):
    """LSTM without recurrent products, whose forget and input gate are shares of one.

    Feng, Tung, Ahmed, Bengio and Hajimirsadeghi, "Were RNNs all we needed?", 2024, section 3.2. Rows of W and b are
    f, i, n.

    Shapes: h [B, H].
    """

    gates = ("f", "i", "n")

    h = state(H)
    W, b = param(3 * H, I), bias(3 * H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        f, i, n = (x @ self.W.T + self.b).chunk(3, -1)
        f, i = sigmoid(f), sigmoid(i)
        return torch.lerp(n, h, f / (f + i))
