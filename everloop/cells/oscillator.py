"""The network of coupled oscillators."""

from __future__ import annotations

from torch import Tensor, tanh

from everloop.cell import Cell, H, I, bias, param, state


class CoRNN(Cell):
    """Coupled oscillators with positions y and velocities z: damping `epsilon`, frequency `gamma`, steps of `dt`.

    Rusch and Mishra, "Coupled oscillatory recurrent neural network (coRNN): An accurate and (gradient) stable
    architecture for learning long time dependencies", ICLR 2021, equation 3 with the explicit damping.

    Shapes: y, z [B, H].
    """

    dt: float = 0.042
    gamma: float = 2.7
    epsilon: float = 4.7

    y, z = state(H), state(H)
    W, R, R_z, b = param(H, I), param(H, H), param(H, H), bias(H)

    def step(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        force = tanh(x @ self.W.T + y @ self.R.T + z @ self.R_z.T + self.b)
        z = z + self.dt * (force - self.gamma * y - self.epsilon * z)
        return y + self.dt * z, z
