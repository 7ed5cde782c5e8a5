"""Leaky integrate-and-fire neurons."""

from __future__ import annotations

import torch
from torch import Tensor

from everloop.cell import Cell, H, I, param, state
from everloop.own_gradient import custom_gradient

spike = custom_gradient(
    lambda over, slope: torch.where(over.isnan(), over, over > 0),  # a network that diverged says so
    lambda over, slope, g: (g / (1 + slope * over.abs()) ** 2, None),
)


class LIF(Cell):
    """Spiking neurons with a synaptic current i and a membrane potential u that a spike s lowers by its threshold, 1.

    Neftci, Mostafa and Zenke, "Surrogate gradient learning in spiking neural networks", IEEE Signal Processing Magazine
    2019, equations 4 and 5. The gradient of a spike is that of (u - 1) / (1 + slope |u - 1|); none goes through the
    lowering. `alpha` and `beta` are what a step leaves of i and u.

    Shapes: s, u, i [B, H]; s is 0 or 1.
    """

    alpha: float = 0.82
    beta: float = 0.9
    slope: float = 100.0

    s, u, i = state(H), state(H), state(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, s: Tensor, u: Tensor, i: Tensor) -> tuple[Tensor, ...]:
        u = self.beta * u + i - s.detach()
        i = self.alpha * i + x @ self.W.T + s @ self.R.T
        return spike(u - 1, self.slope), u, i
