"""Long short-term memory. Rows of W, R and b are the gates in the order of `gates`; h is the output, c the memory."""

from __future__ import annotations

from torch import Tensor, sigmoid, tanh

from everloop.cell import Cell, H, I, bias, param, state


class LSTM(Cell):
    """Long short-term memory with a forget gate, as torch.nn.LSTM.

    Gers, Schmidhuber and Cummins, "Learning to forget", Neural Computation 2000.
    """

    gates = ("i", "f", "g", "o")

    h, c = state(H), state(H)
    W, R, b = param(4 * H, I), param(4 * H, H), bias(4 * H)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = (x @ self.W.T + h @ self.R.T + self.b).chunk(4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        return h, c


class PeepholeLSTM(Cell):
    """LSTM whose gates also see the memory cell.

    Gers and Schmidhuber, "Recurrent nets that time and count", IJCNN 2000.
    """

    gates = ("i", "f", "g", "o")

    h, c = state(H), state(H)
    W, R, b = param(4 * H, I), param(4 * H, H), bias(4 * H)
    p_i, p_f, p_o = param(H), param(H), param(H)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = (x @ self.W.T + h @ self.R.T + self.b).chunk(4, -1)
        i = sigmoid(i + self.p_i * c)
        f = sigmoid(f + self.p_f * c)
        c = f * c + i * tanh(g)
        o = sigmoid(o + self.p_o * c)  # sees the new memory, not the old
        h = o * tanh(c)
        return h, c


class CoupledLSTM(Cell):
    """LSTM that forgets exactly as much as it writes: i = 1 - f.

    Greff, Srivastava, Koutník, Steunebrink and Schmidhuber, "LSTM: a search space odyssey", 2017 (CIFG).
    """

    gates = ("f", "g", "o")

    h, c = state(H), state(H)
    W, R, b = param(3 * H, I), param(3 * H, H), bias(3 * H)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        f, g, o = (x @ self.W.T + h @ self.R.T + self.b).chunk(3, -1)
        f = sigmoid(f)
        c = f * c + (1 - f) * tanh(g)
        h = sigmoid(o) * tanh(c)
        return h, c
