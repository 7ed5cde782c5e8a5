"""Fast weights that attend to the recent past."""

from __future__ import annotations

from torch import Tensor, relu
from torch.nn.functional import layer_norm

from everloop.cell import Cell, H, I, bias, param, state


class FastWeights(Cell):
    """A recurrent network with a second, fast matrix A, which stores past hidden vectors and fades by `decay` a step.

    Ba, Hinton, Mnih, Leibo and Ionescu, "Using fast weights to attend to the recent past", NeurIPS 2016, equations 1
    and 2 with layer normalisation. At each step A is applied `inner` times; `rate` is that of writing.

    Shapes: h [B, H]; A [B, H, H].
    """

    decay: float = 0.95
    rate: float = 0.5
    inner: int = 1
    eps: float = 1e-5

    h, A = state(H), state(H, H)
    W, R, b = param(H, I), param(H, H), bias(H)
    gain, b_n = param(H, init=1.0), bias(H, init=0.0)

    def step(self, x: Tensor, h: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
        A = self.decay * A + self.rate * h.unsqueeze(-1) * h.unsqueeze(-2)
        slow = x @ self.W.T + h @ self.R.T + self.b
        h = relu(slow)
        for _ in range(self.inner):
            found = slow + (A * h.unsqueeze(-2)).sum(-1)
            h = relu(layer_norm(found, self.gain.shape, self.gain, eps=self.eps) + self.b_n)
        return h, A
