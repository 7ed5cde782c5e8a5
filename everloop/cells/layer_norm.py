"""Long short-term memory with layer normalisation."""

from __future__ import annotations

from torch import Tensor, sigmoid, tanh
from torch.nn.functional import layer_norm

from everloop.cell import Cell, H, I, bias, param, state


class LayerNormLSTM(Cell):
    """LSTM that normalises both products over all gates, and the memory before it is read.

    Ba, Kiros and Hinton, "Layer normalization", 2016, equations 20 to 22. Rows of W, R and b are i, f, g, o.
    """

    gates = ("i", "f", "g", "o")
    eps: float = 1e-5

    h, c = state(H), state(H)
    W, R, b = param(4 * H, I), param(4 * H, H), bias(4 * H)
    gain_x, gain_h = param(4 * H, init=1.0), param(4 * H, init=1.0)
    gain_c, b_c = param(H, init=1.0), bias(H, init=0.0)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        of_x = layer_norm(x @ self.W.T, self.gain_x.shape, self.gain_x, eps=self.eps)
        of_h = layer_norm(h @ self.R.T, self.gain_h.shape, self.gain_h, eps=self.eps)
        i, f, g, o = (of_x + of_h + self.b).chunk(4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(layer_norm(c, self.gain_c.shape, self.gain_c, eps=self.eps) + self.b_c)
        return h, c
