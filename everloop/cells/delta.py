"""The delta rule: a memory S of values by keys that corrects what it holds for a key, by the rate beta."""

from __future__ import annotations

from torch import Tensor, exp, sigmoid
from torch.nn.functional import silu, softplus

from everloop.cell import Cell, H, I, bias, output, param, size, state
from everloop.cells.mamba import log_of_rates, small_steps

heads = size("heads")


def unit(a: Tensor) -> Tensor:
    """Return vectors of length 1 along the last axis; those of 0 stay 0."""
    length: Tensor = a.norm(dim=-1, keepdim=True)
    return a / length.clamp_min(1e-12)


class DeltaNet(Cell):
    """Linear attention that replaces what the memory holds for a key instead of adding to it.

    Schlag, Irie and Schmidhuber, "Linear transformers are secretly fast weight programmers", ICML 2021, equations 20 to
    24 (the rule); Yang, Wang, Zhang, Shen and Kim, "Parallelizing linear transformers with the delta rule over sequence
    length", NeurIPS 2024 (keys and queries of length 1 after SiLU). Rows of W are q, k, v, each head after head.

    Shapes: S [B, heads, H / heads, H / heads], values by keys; y [B, H].
    """

    S = state(heads, H // heads, H // heads)
    y = output(H)
    W = param(3 * H, I)
    W_b, b_b = param(heads, I), bias(heads)

    def step(self, x: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = (x @ self.W.T).unflatten(-1, (3, *S.shape[1:3])).unbind(1)
        q, k = unit(silu(q)).unsqueeze(-2), unit(silu(k)).unsqueeze(-2)
        beta = sigmoid(x @ self.W_b.T + self.b_b).unsqueeze(-1)
        error = beta * (v - (S * k).sum(-1))
        S = S + error.unsqueeze(-1) * k
        return S, (S * q).sum(-1).flatten(1)


class GatedDeltaNet(Cell):
    """The delta rule on a memory that also forgets: all of a head, by a rate that depends on x.

    Yang, Kautz and Hatamizadeh, "Gated delta networks: Improving Mamba2 with delta rule", ICLR 2025, equation 10, with
    Mamba-2's decay. Rows of W are q, k, v, each head after head.

    Shapes: S [B, heads, H / heads, H / heads], values by keys; A [heads]; y [B, H].
    """

    S = state(heads, H // heads, H // heads)
    y = output(H)
    W, A = param(3 * H, I), param(heads, init=log_of_rates)
    W_b, b_b = param(heads, I), bias(heads)
    W_d, b_d = param(heads, I), bias(heads, init=small_steps)

    def step(self, x: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = (x @ self.W.T).unflatten(-1, (3, *S.shape[1:3])).unbind(1)
        q, k = unit(silu(q)).unsqueeze(-2), unit(silu(k)).unsqueeze(-2)
        beta = sigmoid(x @ self.W_b.T + self.b_b).unsqueeze(-1)
        S = exp(-exp(self.A) * softplus(x @ self.W_d.T + self.b_d))[..., None, None] * S
        error = beta * (v - (S * k).sum(-1))
        S = S + error.unsqueeze(-1) * k
        return S, (S * q).sum(-1).flatten(1)
