"""The recurrent highway network."""

from __future__ import annotations

from torch import Tensor, sigmoid, tanh

from everloop.cell import Cell, H, I, bias, param, size, state

L = size("depth")


def closed_gates(b: Tensor) -> None:
    """Fill with 0 for candidates and -2 for transform gates, which carry most of the state through at first."""
    candidates, gates = b.chunk(2, -1)
    candidates.zero_()
    gates.fill_(-2)


class RecurrentHighway(Cell):
    """Each step goes through `depth` highway layers, of which the first sees the input; the carry gate is 1 - t.

    Zilly, Srivastava, Koutník and Schmidhuber, "Recurrent highway networks", ICML 2017, equations 6 to 9. Rows of W,
    and of R and b in each layer, are the candidate and the transform gate t.

    Shapes: h [B, H]; R [depth, 2 H, H].
    """

    h = state(H)
    W, R, b = param(2 * H, I), param(L, 2 * H, H), bias(L, 2 * H, init=closed_gates)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        u = x @ self.W.T
        for layer in range(self.sizes["depth"]):
            u = u + h @ self.R[layer].T + (self.b[layer] if self.bias else 0.0)
            n, t = u.chunk(2, -1)
            t = sigmoid(t)
            h = t * tanh(n) + (1 - t) * h
            u = 0.0
        return h
