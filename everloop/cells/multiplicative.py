"""Multiplicative long short-term memory."""

from __future__ import annotations

from torch import Tensor, sigmoid, tanh

from everloop.cell import Cell, H, I, bias, param, state


class MultiplicativeLSTM(Cell):
    """LSTM whose recurrent products read m, the state h multiplied by the input, so that each input has its own.

    Krause, Lu, Murray and Renals, "Multiplicative LSTM for sequence modelling", 2016, equations 16 to 21. Rows of W, R
    and b are i, f, g, o.

    Shapes: h, c [B, H].
    """

    gates = ("i", "f", "g", "o")

    h, c = state(H), state(H)
    W, R, b = param(4 * H, I), param(4 * H, H), bias(4 * H)
    W_m, R_m = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        m = (x @ self.W_m.T) * (h @ self.R_m.T)
        i, f, g, o = (x @ self.W.T + m @ self.R.T + self.b).chunk(4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c
