"""Linear recurrences of single units, whose rates of forgetting are kept stable by how they are written."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, cos, exp, sigmoid, sin, sqrt
from torch.nn.functional import logsigmoid

from everloop.cell import Cell, H, I, bias, output, param, size, state

N = size("state_size")


def log_of_log_radius(nu: Tensor) -> None:
    """Fill with nu of complex numbers exp(-exp(nu)) drawn evenly from the disc."""
    nu.copy_(torch.log(-0.5 * torch.log(nu.uniform_().clamp_min(1e-3))))


def log_of_angle(theta: Tensor) -> None:
    """Fill with logarithms of angles drawn from U(0, 2 pi)."""
    theta.uniform_(1e-3, 2 * math.pi).log_()


def slow_rates(a: Tensor) -> None:
    """Fill with logits of rates whose 8th powers are drawn from U(0.9, 0.999)."""
    rate = a.uniform_(0.9, 0.999).pow_(1 / 8)
    a.copy_(torch.logit(rate))


class LRU(Cell):
    """Linear recurrent unit: complex numbers, re and im, that turn and shrink at learned rates.

    Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu and De, "Resurrecting recurrent neural networks for long sequences",
    ICML 2023, equations 6 and 7 and section 3.4. The input is scaled by exp(gamma).

    Shapes: re, im [B, state_size]; y [B, H].
    """

    re, im = state(N), state(N)
    y = output(H)
    nu, theta, gamma = param(N, init=log_of_log_radius), param(N, init=log_of_angle), param(N)
    B_re, B_im, C_re, C_im, D = param(N, I), param(N, I), param(H, N), param(H, N), param(H, I)

    def reset_parameters(self, **options: Any) -> None:
        super().reset_parameters(**options)
        with torch.no_grad():  # so that states have the size of the input: sqrt(1 - |lambda|^2)
            self.gamma.copy_(0.5 * torch.log(-torch.expm1(-2 * exp(self.nu))))

    def step(self, x: Tensor, re: Tensor, im: Tensor) -> tuple[Tensor, ...]:
        radius, angle, scale = exp(-exp(self.nu)), exp(self.theta), exp(self.gamma)
        along, across = radius * cos(angle), radius * sin(angle)
        new_re = along * re - across * im + scale * (x @ self.B_re.T)
        new_im = across * re + along * im + scale * (x @ self.B_im.T)
        return new_re, new_im, new_re @ self.C_re.T - new_im @ self.C_im.T + x @ self.D.T


class RGLRU(Cell):
    """Real-gated linear recurrent unit: each unit forgets at a rate of its own, up to the 8th power of it by a gate.

    De, Smith, Fernando, Botev and others, "Griffin: Mixing gated linear recurrences with local attention for efficient
    language models", 2024, equations 1 to 4. Rows of W and b are the recurrence gate r, the input gate i, and u, the
    input (x itself in the paper, whose I is H).

    Shapes: h [B, H].
    """

    h = state(H)
    W, b, rate = param(3 * H, I), bias(3 * H), param(H, init=slow_rates)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        r, i, u = (x @ self.W.T + self.b).chunk(3, -1)
        log_a = 8 * sigmoid(r) * logsigmoid(self.rate)
        entering: Tensor = sigmoid(i) * u
        return exp(log_a) * h + sqrt(-torch.expm1(2 * log_a)) * entering
