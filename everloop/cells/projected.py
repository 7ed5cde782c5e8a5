"""Long short-term memory with a projected output."""

from __future__ import annotations

from torch import Tensor, sigmoid, tanh

from everloop.cell import Cell, H, I, bias, param, size, state

P = size("proj_size")


class ProjectedLSTM(Cell):
    """LSTM whose output is a smaller projection of its hidden units, as torch.nn.LSTM with `proj_size`.

    Sak, Senior and Beaufays, "Long short-term memory recurrent neural network architectures for large scale
    acoustic modeling", Interspeech 2014. Rows of W, R and b are i, f, g, o.
    """

    gates = ("i", "f", "g", "o")

    h, c = state(P), state(H)
    W, R, b = param(4 * H, I), param(4 * H, P), bias(4 * H)
    V = param(P, H)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = (x @ self.W.T + h @ self.R.T + self.b).chunk(4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = (sigmoid(o) * tanh(c)) @ self.V.T
        return h, c
