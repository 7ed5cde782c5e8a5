"""The simple recurrent network."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from everloop.cell import Cell, H, I, bias, param, state


class Elman(Cell):
    """The plain recurrent network, with `nonlinearity` tanh or relu.

    Elman, "Finding structure in time", Cognitive Science 1990.
    """

    nonlinearity: Literal["tanh", "relu"] = "tanh"

    h = state(H)
    W, R, b = param(H, I), param(H, H), bias(H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        activation = torch.tanh if self.nonlinearity == "tanh" else torch.relu
        return activation(x @ self.W.T + h @ self.R.T + self.b)
