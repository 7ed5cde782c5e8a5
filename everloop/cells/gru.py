"""Gated recurrent units.

The update gate z keeps the old state, h = z * h + (1 - z) * n, as in Cho et al. 2014, torch.nn and Keras. Textbooks
after Chung et al. 2014 write h = (1 - z) * h + z * n: negate the z rows of the weights to go from one to the other.
"""

from __future__ import annotations

from torch import Tensor, sigmoid, tanh

from everloop.cell import Cell, H, I, bias, param, state


class GRU(Cell):
    """Gated recurrent unit with the reset gate after the recurrent product, as torch.nn.GRU and cuDNN.

    Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014, first version.
    Rows of W, R, b (added to the input) and d (added to the recurrent product) are r, z, n.
    """

    gates = ("r", "z", "n")

    h = state(H)
    W, R, b, d = param(3 * H, I), param(3 * H, H), bias(3 * H), bias(3 * H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        r_x, z_x, n_x = (x @ self.W.T + self.b).chunk(3, -1)
        r_h, z_h, n_h = (h @ self.R.T + self.d).chunk(3, -1)
        r = sigmoid(r_x + r_h)
        z = sigmoid(z_x + z_h)
        n = tanh(n_x + r * n_h)
        return z * h + (1 - z) * n


class ResetBeforeGRU(Cell):
    """Gated recurrent unit with the reset gate before the recurrent product: n = tanh(W [r * h, x]).

    Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014.
    Rows of W and b are r, z, n; rows of R are r, z.
    """

    gates = ("r", "z", "n")

    h = state(H)
    W, b = param(3 * H, I), bias(3 * H)
    R, R_n = param(2 * H, H), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        r_x, z_x, n_x = (x @ self.W.T + self.b).chunk(3, -1)
        r_h, z_h = (h @ self.R.T).chunk(2, -1)
        r = sigmoid(r_x + r_h)
        z = sigmoid(z_x + z_h)
        n = tanh(n_x + (r * h) @ self.R_n.T)
        return z * h + (1 - z) * n
