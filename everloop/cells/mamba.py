"""The selective state space of Mamba-2."""

from __future__ import annotations

import math

import torch
from torch import Tensor, exp
from torch.nn.functional import softplus

from everloop.cell import Cell, H, I, bias, output, param, size, state

heads, N = size("heads"), size("state_size")


def log_of_rates(a: Tensor) -> None:
    """Fill with logarithms of rates drawn from U(1, 16), as the authors do."""
    a.uniform_(1, 16).log_()


def small_steps(b: Tensor) -> None:
    """Fill with biases whose softplus is a step between 0.001 and 0.1, drawn evenly on a logarithmic scale."""
    step = b.uniform_(math.log(0.001), math.log(0.1)).exp_()
    b.copy_(step + torch.log(-torch.expm1(-step)))


class Mamba2(Cell):
    """A state space whose decay is one number a head and depends on x, as do its input B and its output C.

    Dao and Gu, "Transformers are SSMs: Generalized models and efficient algorithms through structured state space
    duality", ICML 2024: the recurrence of a block, without its convolution, gate and norm. Heads share B and C, the
    rows of W_bc. Rows of W are what is written, head after head; the step of each head is softplus(W_d x + b_d).

    Shapes: S [B, heads, H / heads, state_size]; A, D [heads]; y [B, H].
    """

    S = state(heads, H // heads, N)
    y = output(H)
    W, W_bc = param(H, I), param(2 * N, I)
    W_d, b_d = param(heads, I), bias(heads, init=small_steps)
    A, D = param(heads, init=log_of_rates), param(heads, init=1.0)

    def step(self, x: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        u = (x @ self.W.T).unflatten(-1, S.shape[1:3])
        B, C = (x @ self.W_bc.T)[:, None, None].chunk(2, -1)
        d = softplus(x @ self.W_d.T + self.b_d).unsqueeze(-1)
        keep = exp(-exp(self.A).unsqueeze(-1) * d)
        S = keep.unsqueeze(-1) * S + (d * u).unsqueeze(-1) * B
        y = (S * C).sum(-1) + self.D.unsqueeze(-1) * u
        return S, y.flatten(1)
