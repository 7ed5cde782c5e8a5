"""Networks in continuous time: their steps last as long as the time stamps say, or stand for noisy equations."""

from __future__ import annotations

import torch
from torch import Tensor, nn, relu, sigmoid, tanh
from torch.nn.functional import softplus

from everloop.cell import Cell, H, I, bias, inputs, noise, output, param, size, state

K = size("backbone_size")


class LTC(Cell):
    """A liquid time-constant network: neurons that leak, and synapses f that open them to a potential A.

    Hasani, Lechner, Amini, Rus and Grosu, "Liquid time-constant networks", AAAI 2021, equation 1 by `unfolds` steps of
    the fused solver of equation 3; f is a logistic sigmoid of a linear map, 1 / tau the softplus of `leak`. dt is the
    time since the step before.

    Shapes: dt [B, 1]; h [B, H].
    """

    unfolds: int = 6

    x, dt = inputs(I, 1)
    h = state(H)
    W, R, b = param(H, I), param(H, H), bias(H)
    A, leak = param(H, init=nn.init.normal_), param(H, init=0.5)

    def step(self, x: Tensor, dt: Tensor, h: Tensor) -> Tensor:
        drive, leak, dt = x @ self.W.T + self.b, softplus(self.leak), dt / self.unfolds
        for _ in range(self.unfolds):
            f = sigmoid(drive + h @ self.R.T)
            h = (h + dt * f * self.A) / (1 + dt * (leak + f))
        return h


class CfC(Cell):
    """The closed form of a liquid network: a gate, which falls with the time dt, leads from one candidate to another.

    Hasani, Lechner, Amini, Liebenwein, Ray, Tschaikowski, Teschl and Rus, "Closed-form continuous-time neural
    networks", Nature Machine Intelligence 2022, equation 10; the heads share a layer of `backbone_size` units. Rows of
    V and c are f, g, n. dt is the time since the step before.

    Shapes: dt [B, 1]; h [B, H].
    """

    x, dt = inputs(I, 1)
    h = state(H)
    W, R, b = param(K, I), param(K, H), bias(K)
    V, c = param(3 * H, K), bias(3 * H)

    def step(self, x: Tensor, dt: Tensor, h: Tensor) -> Tensor:
        u = 1.7159 * tanh(2 / 3 * (x @ self.W.T + h @ self.R.T + self.b))
        f, g, n = (u @ self.V.T + self.c).chunk(3, -1)
        t = sigmoid(-f * dt)
        return t * tanh(g) + (1 - t) * tanh(n)


class GRUD(Cell):
    """GRU for series with gaps: what is missing falls from the last number seen to the mean, and the state fades.

    Che, Purushotham, Cho, Sontag and Liu, "Recurrent neural networks for multivariate time series with missing
    values", Scientific Reports 2018. Rows of W, V and b are r, z, n, of R r, z; the reset gate is before the product
    with R_n. seen is 1 where a number of x was measured and 0 where it is missing: x may be anything there, NaN too.
    dt is the time since it was measured last; `mean` that of the data: 0, as of standardised series, until you fill it.

    Shapes: seen, dt, last [B, I]; h [B, H].
    """

    gates = ("r", "z", "n")

    x, seen, dt = inputs(I, I, I)
    h, last = state(H), state(I)
    W, V, b = param(3 * H, I), param(3 * H, I), bias(3 * H)
    R, R_n = param(2 * H, H), param(H, H)
    d_x, d_h, b_x, b_h = param(I), param(H, I), bias(I), bias(H)
    mean = param(I, init=0.0)

    def step(self, x: Tensor, seen: Tensor, dt: Tensor, h: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        of_x = torch.exp(-relu(self.d_x * dt + self.b_x))
        h = h * torch.exp(-relu(dt @ self.d_h.T + self.b_h))
        last = torch.where(seen > 0.5, x, last)
        x = torch.where(seen > 0.5, x, of_x * last + (1 - of_x) * self.mean)
        r, z, n = (x @ self.W.T + seen @ self.V.T + self.b).chunk(3, -1)
        r, z = sigmoid(torch.cat([r, z], -1) + h @ self.R.T).chunk(2, -1)
        n = tanh(n + (r * h) @ self.R_n.T)
        return (1 - z) * h + z * n, last


class CTRNN(Cell):
    """A rate network of noisy neurons in small steps of `alpha` = dt / tau; h = relu(v) are the rates.

    Song, Yang and Wang, "Training excitatory-inhibitory recurrent neural networks for cognitive tasks: A simple and
    flexible framework", PLOS Computational Biology 2016, without the signs of its weights. v are currents, to which the
    layer adds noise of deviation `sigma` in training.

    Shapes: v, h [B, H].
    """

    alpha: float = 0.2
    sigma: float = 0.15

    v = state(H)
    h = output(H)
    jitter = noise(H)
    W, R, b = param(H, I), param(H, H), bias(H)

    def step(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        v = v + self.alpha * (relu(v) @ self.R.T + x @ self.W.T + self.b - v)
        v = v + (2 * self.alpha) ** 0.5 * self.sigma * self.jitter
        return v, relu(v)
