"""The simple recurrent unit."""

from __future__ import annotations

import torch
from torch import Tensor, sigmoid

from everloop.cell import Cell, H, I, bias, output, param, state


class SRU(Cell):
    """A light gated memory c with a highway from the input; gates see the memory through the vectors of v.

    Lei, Zhang, Wang, Dai and Artzi, "Simple recurrent units for highly parallelizable recurrence", EMNLP 2018,
    equations 1 to 4. Rows of W are the candidate, f, r and the highway (x itself in the paper, whose I is H);
    of v and b f, r.

    Shapes: c, h [B, H].
    """

    c = state(H)
    h = output(H)
    W, v, b = param(4 * H, I), param(2 * H), bias(2 * H)

    def step(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        n, f, r, through = (x @ self.W.T).chunk(4, -1)
        f, r = sigmoid(torch.cat([f, r], -1) + self.v * torch.cat([c, c], -1) + self.b).chunk(2, -1)
        c = f * c + (1 - f) * n
        return c, r * c + (1 - r) * through
