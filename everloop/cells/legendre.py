"""The Legendre memory unit."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, tanh

from everloop.cell import Cell, H, I, param, size, state

D = size("order")


@lru_cache(maxsize=32)
def dynamics(order: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return A [order, order] and B [order] of one step of a memory of the last `theta` steps, in float64."""
    i = torch.arange(order, dtype=torch.float64)
    scale = (2 * i + 1) / theta
    sign = torch.where(i[:, None] < i, -1.0, (-1.0) ** (i[:, None] - i + 1))
    whole = torch.zeros(order + 1, order + 1, dtype=torch.float64)  # A and B of the differential equation
    whole[:-1, :-1], whole[:-1, -1] = scale[:, None] * sign, scale * (-1.0) ** i
    discrete = exponential(whole)  # the input is held for the length of a step
    return discrete[:-1, :-1], discrete[:-1, -1]


def exponential(A: Tensor) -> Tensor:
    """Return exp(A) to the last digits, which torch.linalg.matrix_exp does not reach for small matrices."""
    halvings = max(0, math.ceil(math.log2(A.abs().sum(0).max().item())) + 1)
    term = total = torch.eye(len(A), dtype=A.dtype)
    for k in range(1, 20):
        term = term @ A / (2**halvings * k)
        total = total + term
    for _ in range(halvings):
        total = total @ total
    return total


class LMU(Cell):
    """A network with a linear memory m: the window of the last `theta` steps of one number u, as Legendre polynomials.

    Voelker, Kajić and Eliasmith, "Legendre memory units: Continuous-time representation in recurrent neural networks",
    NeurIPS 2019, equations 1, 2, 6 and 7. The dynamics of the memory are fixed.

    Shapes: h [B, H]; m [B, order].
    """

    theta: float = 100.0

    h, m = state(H), state(D)
    W, R, M = param(H, I), param(H, H), param(H, D)
    e_x, e_h, e_m = param(1, I), param(1, H), param(1, D, init=0.0)

    def step(self, x: Tensor, h: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        A, B = (each.to(device=x.device, dtype=x.dtype) for each in dynamics(self.sizes["order"], self.theta))
        u = x @ self.e_x.T + h @ self.e_h.T + m @ self.e_m.T
        m = m @ A.T + u * B
        return tanh(x @ self.W.T + h @ self.R.T + m @ self.M.T), m
