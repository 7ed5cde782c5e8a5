"""The network with a connectivity of low rank."""

from __future__ import annotations

from torch import Tensor, nn, tanh

from everloop.cell import Cell, H, I, output, param, size, state

K = size("rank")


class LowRankRNN(Cell):
    """A rate network in small steps of `alpha` = dt / tau whose recurrent matrix is M N / H.

    Mastrogiuseppe and Ostojic, "Linking connectivity, dynamics, and computations in low-rank recurrent neural
    networks", Neuron 2018, without the random part of the connectivity. v are potentials, h = tanh(v) the rates.

    Shapes: v, h [B, H].
    """

    alpha: float = 0.2

    v = state(H)
    h = output(H)
    W, M, N = param(H, I), param(H, K, init=nn.init.normal_), param(K, H, init=nn.init.normal_)

    def step(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        recurrent = (tanh(v) @ self.N.T) @ self.M.T / v.shape[-1]
        v = v + self.alpha * (recurrent + x @ self.W.T - v)
        return v, tanh(v)
