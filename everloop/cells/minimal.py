"""The gated unit with a single gate."""

from __future__ import annotations

import torch
from torch import Tensor, sigmoid, tanh

from everloop.cell import Cell, H, I, bias, param, state


class MinimalGatedUnit(Cell):
    """Gated unit whose one gate f both resets and updates. W_f and W_n multiply the concatenation [h, x].

    Zhou, Wu, Zhang and Zhou, "Minimal gated unit for recurrent neural networks", 2016.
    Here f = 1 takes the candidate and f = 0 keeps the old state, as in the paper.
    """

    h = state(H)
    W_f, b_f = param(H, H + I), bias(H)
    W_n, b_n = param(H, H + I), bias(H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        f = sigmoid(torch.cat([h, x], -1) @ self.W_f.T + self.b_f)
        n = tanh(torch.cat([f * h, x], -1) @ self.W_n.T + self.b_n)
        return (1 - f) * h + f * n
