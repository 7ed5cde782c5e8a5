"""A cell in a module of its own, which a saved graph names; and what a new process does with such a graph."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from everloop.cell import Cell, H, I, param, state
from everloop.errors import UnsupportedError


class Leaky(Cell):
    """A leaky unit with an option."""

    h = state(H)
    W, R = param(H, I), param(H, H)
    rate: float = 0.5

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return (1 - self.rate) * h + self.rate * torch.tanh(x @ self.W.T + h @ self.R.T)


if __name__ == "__main__":  # says why a model cannot be loaded before modules are imported, and runs it afterwards
    import importlib

    importlib.import_module("everloop")
    kept, path = torch.load(f"{sys.argv[1]}/inputs.pt"), f"{sys.argv[1]}/model.pt2"
    try:
        torch.export.load(path).module()(**kept)
    except UnsupportedError as error:
        print(error)
    for name in sys.argv[2:]:
        importlib.import_module(name)
    torch.save(torch.export.load(path).module()(**kept), f"{sys.argv[1]}/outputs.pt")
