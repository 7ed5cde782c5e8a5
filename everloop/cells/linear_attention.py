"""Attention without softmax, which is a recurrent network: a memory S of values by keys, read by a query.

What surrounds these cells in their papers (short convolutions, residual connections, further layers) is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, cos, exp, sin
from torch.nn.functional import elu, layer_norm, logsigmoid, silu

from everloop.cell import Cell, H, I, bias, output, param, size, state

heads, K = size("heads"), size("key_size")


class LinearAttention(Cell):
    """Attention with the feature map elu(x) + 1, summed up in S and its normaliser z.

    Katharopoulos, Vyas, Pappas and Fleuret, "Transformers are RNNs: Fast autoregressive transformers with linear
    attention", ICML 2020, equations 16 to 20. Rows of W and b are q, k, v, each head after head.

    Shapes: S [B, heads, H / heads, H / heads], values by keys; z [B, heads, H / heads]; y [B, H].
    """

    eps: float = 1e-6

    S, z = state(heads, H // heads, H // heads), state(heads, H // heads)
    y = output(H)
    W, b = param(3 * H, I), bias(3 * H)

    def step(self, x: Tensor, S: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        q, k, v = (x @ self.W.T + self.b).unflatten(-1, (3, *z.shape[1:])).unbind(1)
        q, k = elu(q) + 1, elu(k) + 1
        S = S + v.unsqueeze(-1) * k.unsqueeze(-2)
        z = z + k
        y = (S * q.unsqueeze(-2)).sum(-1) / ((z * q).sum(-1, keepdim=True) + self.eps)
        return S, z, y.flatten(1)


class RetNet(Cell):
    """Retention: keys and queries are complex numbers that turn with time, and each head forgets at its own rate.

    Sun, Dong, Huang, Ma, Xia, Xue, Wang and Wei, "Retentive network: A successor to transformer for large language
    models", 2023, equations 1 to 8. Head h forgets by 1 - 2^(-5-h) a step; key j of `key_size` turns by
    10000^(-j / key_size). S and Z are the real and the imaginary part of the memory of values by keys. Rows of W and b
    are the real and imaginary parts of q, then of k; those of W_v and b_v the values and the gate.

    Shapes: S, Z [B, heads, H / heads, key_size]; y [B, H].
    """

    eps: float = 1e-5

    S, Z = state(heads, H // heads, K), state(heads, H // heads, K)
    y = output(H)
    W, b = param(4 * heads * K, I), bias(4 * heads * K)
    W_v, b_v = param(2 * H, I), bias(2 * H)
    W_o = param(H, H)

    def step(self, x: Tensor, S: Tensor, Z: Tensor) -> tuple[Tensor, ...]:
        _, count, values, keys = S.shape
        turn = 10000.0 ** -(torch.arange(keys, dtype=torch.float64, device=x.device) / keys)
        rate = 1 - 2.0 ** -(5 + torch.arange(count, dtype=torch.float64, device=x.device).view(-1, 1, 1))
        along, across = (rate * cos(turn)).to(x.dtype), (rate * sin(turn)).to(x.dtype)
        q, q_i, k, k_i = (x @ self.W.T + self.b).unflatten(-1, (4, count, 1, keys)).unbind(1)
        v, g = (x @ self.W_v.T + self.b_v).chunk(2, -1)
        v = v.unflatten(-1, (count, values, 1))
        S, Z = along * S - across * Z + v * k, across * S + along * Z - v * k_i
        y = (q * S - q_i * Z).sum(-1)
        y = layer_norm(y, (values,), eps=self.eps).flatten(1)
        return S, Z, (silu(g) * y) @ self.W_o.T


class GLA(Cell):
    """Gated linear attention: each key of the memory forgets at a rate that depends on x.

    Yang, Wang, Shen, Panda and Kim, "Gated linear attention transformers with hardware-efficient training", ICML 2024,
    section 4: forget gates of rank 16 and temperature 16, layer normalisation by head, and a gate r on the output. Rows
    of W are q, k, v, r, each head after head.

    Shapes: S [B, heads, H / heads, H / heads], values by keys; y [B, H].
    """

    eps: float = 1e-5

    S = state(heads, H // heads, H // heads)
    y = output(H)
    W, b_r = param(4 * H, I), bias(H)
    W_1, W_2, b = param(16, I), param(H, 16), bias(H)
    gain, W_o = param(H // heads, init=1.0), param(H, H)

    def step(self, x: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        *_, count, each, _ = S.shape
        q, k, v, r = (x @ self.W.T).chunk(4, -1)
        q, k = q.unflatten(-1, (count, 1, each)), k.unflatten(-1, (count, 1, each))
        forget = (x @ self.W_1.T @ self.W_2.T + self.b).unflatten(-1, (count, 1, each))
        S = exp(logsigmoid(forget) / 16) * S + v.unflatten(-1, (count, each, 1)) * k
        y = layer_norm((S * q).sum(-1), (each,), self.gain, eps=self.eps)
        return S, (silu(r + self.b_r) * y.flatten(1)) @ self.W_o.T
