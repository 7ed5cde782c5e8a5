"""The decoder that attends to a memory at every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn, sigmoid, tanh

from everloop.cell import Cell, H, I, bias, context, output, param, size, state

S, M = size("slots"), size("memory_size")


class AttentionGRU(Cell):
    """GRU that at each step reads from a memory, such as an encoder's outputs, what fits the state before it.

    Bahdanau, Cho and Bengio, "Neural machine translation by jointly learning to align and translate", ICLR 2015,
    appendix A: additive attention with H units, the reset gate before the product. Rows of W, C and b are r, z, n, of R
    r, z. The layer takes `memory=` and, where it has them, `memory_lengths=`; a memory of no rows reads as 0. Outputs
    are y = h and what was read, which the paper's readout takes; `layer.record(x, "weights", …)` gives the weights.

    Shapes: memory [B, S, memory_size]; h, y [B, H]; read [B, memory_size].
    """

    h = state(H)
    y, read = output(H), output(M)
    memory = context(S, M)
    memory_mask: Tensor
    W, C, b = param(3 * H, I), param(3 * H, M), bias(3 * H)
    R, R_n = param(2 * H, H), param(H, H)
    W_a, U_a, v = param(H, H), param(H, M), param(H, init=nn.init.normal_)

    def step(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys = torch.einsum("bsm,hm->bsh", self.memory, self.U_a)
        scores = (tanh((h @ self.W_a.T).unsqueeze(1) + keys) * self.v).sum(-1)
        weights = scores.masked_fill(~self.memory_mask, -1e9).softmax(-1) * self.memory_mask
        read = torch.einsum("bs,bsm->bm", weights, self.memory)
        r, z, n = (x @ self.W.T + read @ self.C.T + self.b).chunk(3, -1)
        r, z = sigmoid(torch.cat([r, z], -1) + h @ self.R.T).chunk(2, -1)
        n = tanh(n + (r * h) @ self.R_n.T)
        h = (1 - z) * h + z * n
        return h, h, read
