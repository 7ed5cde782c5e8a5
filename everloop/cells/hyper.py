"""The LSTM whose weights another one scales."""

from __future__ import annotations

import torch
from torch import Tensor, nn, sigmoid, tanh
from torch.nn.functional import layer_norm

from everloop.cell import Cell, H, I, bias, param, size, state

P, Z = size("hyper_size"), size("embedding_size")


def a_tenth(D: Tensor) -> None:
    """Fill so that an embedding of ones scales by 0.1."""
    D.fill_(0.1 / D.shape[-1])


def small(Z: Tensor) -> None:
    nn.init.normal_(Z, std=0.01)


class HyperLSTM(Cell):
    """LSTM of which a smaller one, with the states s and m, scales the rows of all matrices at each step.

    Ha, Dai and Le, "HyperNetworks", ICLR 2017, appendix A.2.2, with the embeddings read from the new s, as the authors'
    code does. Rows of matrices and biases are i, f, g, o; each gate is normalised. Z makes embeddings of s: those that
    scale R (h), W (x), and those of the biases; D_h, D_x and D_b make the scales of them.

    Shapes: h, c [B, H]; s, m [B, hyper_size]; D_h, D_x, D_b [4, H, embedding_size].
    """

    gates = ("i", "f", "g", "o")
    eps: float = 1e-5

    h, c, s, m = state(H), state(H), state(P), state(P)
    W_s, R_s, gain_s, b_s = param(4 * P, H + I), param(4 * P, P), param(4 * P, init=1.0), bias(4 * P, init=0.0)
    gain_m, b_m = param(P, init=1.0), bias(P, init=0.0)
    Z_h, Z_x, Z_b = param(4 * Z, P, init=0.0), param(4 * Z, P, init=0.0), param(4 * Z, P, init=small)
    b_h, b_x = bias(4 * Z, init=1.0), bias(4 * Z, init=1.0)
    D_h, D_x, D_b = param(4, H, Z, init=a_tenth), param(4, H, Z, init=a_tenth), param(4, H, Z, init=0.0)
    W, R, b = param(4 * H, I), param(4 * H, H), bias(4 * H, init=0.0)
    gain, b_g = param(4 * H, init=1.0), bias(4 * H, init=0.0)
    gain_c, b_c = param(H, init=1.0), bias(H, init=0.0)

    def normalised(self, a: Tensor, gain: Tensor, b: Tensor, groups: int) -> Tensor:
        parts = a.view(a.shape[0], groups, a.shape[1] // groups)
        return layer_norm(parts, parts.shape[2:], eps=self.eps).flatten(1) * gain + b

    def scales(self, z: Tensor, D: Tensor) -> Tensor:
        return torch.einsum("bgz,ghz->bgh", z.view(z.shape[0], 4, D.shape[2]), D).flatten(1)

    def step(self, x: Tensor, h: Tensor, c: Tensor, s: Tensor, m: Tensor) -> tuple[Tensor, ...]:
        u = torch.cat([h, x], -1) @ self.W_s.T + s @ self.R_s.T
        i, f, g, o = self.normalised(u, self.gain_s, self.b_s, 4).chunk(4, -1)
        m = sigmoid(f) * m + sigmoid(i) * tanh(g)
        s = sigmoid(o) * tanh(self.normalised(m, self.gain_m, self.b_m, 1))
        of_h = self.scales(s @ self.Z_h.T + self.b_h, self.D_h) * (h @ self.R.T)
        of_x = self.scales(s @ self.Z_x.T + self.b_x, self.D_x) * (x @ self.W.T)
        u = of_h + of_x + self.scales(s @ self.Z_b.T, self.D_b) + self.b
        i, f, g, o = self.normalised(u, self.gain, self.b_g, 4).chunk(4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(self.normalised(c, self.gain_c, self.b_c, 1)), c, s, m
