"""The time mixing of RWKV-7."""

from __future__ import annotations

import math

from torch import Tensor, exp, nn, sigmoid, tanh
from torch.nn.functional import layer_norm

from everloop.cell import Cell, H, I, bias, output, param, size, state
from everloop.cells.delta import unit

heads, rank = size("heads"), size("rank")


class RWKV7(Cell):
    """A memory of values by keys that forgets by key and unlearns the key it removes, at rates that depend on x.

    Peng, Zhang, Goldstein, Alcaide and others, "RWKV-7 Goose with expressive dynamic state evolution", 2025, section 4:
    the time mixing of the first layer, which has no value residual. Each product reads x mixed with the x before, by
    the rows of mu in the order r, d, k, v, a, g. Decay d, rate a and gate g have products of low rank.

    Shapes: S [B, heads, H / heads, H / heads], values by keys; before [B, I]; y [B, H].
    """

    S, before = state(heads, H // heads, H // heads), state(I)
    y = output(H)
    mu = param(6, I, init=nn.init.uniform_)
    W_r, W_k, W_v, W_o = param(H, I), param(H, I), param(H, I), param(H, H)
    D_1, D_2, b_d = param(rank, I), param(H, rank), bias(H)
    A_1, A_2, b_a = param(rank, I), param(H, rank), bias(H)
    G_1, G_2 = param(rank, I), param(H, rank)
    removal, replacement, bonus = param(H, init=1.0), param(H, init=1.0), param(H)
    gain, b_n = param(H, init=1.0), bias(H, init=0.0)

    def step(self, x: Tensor, S: Tensor, before: Tensor) -> tuple[Tensor, ...]:
        heads = S.shape[1:3]
        x_r, x_d, x_k, x_v, x_a, x_g = (x + (before - x) * self.mu[j] for j in range(6))
        r, k, v = x_r @ self.W_r.T, x_k @ self.W_k.T, x_v @ self.W_v.T
        a = sigmoid(x_a @ self.A_1.T @ self.A_2.T + self.b_a)
        keep = exp(-math.exp(-0.5) * sigmoid(tanh(x_d @ self.D_1.T) @ self.D_2.T + self.b_d))
        g = sigmoid(x_g @ self.G_1.T) @ self.G_2.T
        removed = unit((k * self.removal).unflatten(-1, heads)).unsqueeze(-2)
        k = k * (1 + (a - 1) * self.replacement)
        bonus = (r * k * self.bonus).unflatten(-1, heads).sum(-1, keepdim=True)
        r, k, a, keep = (each.unflatten(-1, heads).unsqueeze(-2) for each in (r, k, a, keep))
        v = v.unflatten(-1, heads)
        S = keep * S - (S * removed).sum(-1, keepdim=True) * (removed * a) + v.unsqueeze(-1) * k
        read = layer_norm((S * r).sum(-1), heads[1:], eps=1e-5 * heads[1])
        y = read.flatten(1) * self.gain + self.b_n + (bonus * v).flatten(1)
        return S, x, (g * y) @ self.W_o.T
