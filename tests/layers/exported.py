"""Cells in a module of their own, which saved graphs name; and what a new process does with such graphs."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from everloop.cell import Cell, H, I, context, inputs, output, param, size, state
from everloop.errors import UnsupportedError

keys = size("keys")


class Leaky(Cell):
    """A leaky unit with an option."""

    h = state(H)
    W, R = param(H, I), param(H, H)
    rate: float = 0.5

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return (1 - self.rate) * h + self.rate * torch.tanh(x @ self.W.T + h @ self.R.T)


class Memory(Cell):
    """A matrix state with two outputs, a further input and a context."""

    x, dt = inputs(I, 1)
    S = state(H, keys)
    y, energy = output(H), output(1)
    speaker = context(keys)
    K, V = param(keys, I), param(H, I)

    def step(self, x: Tensor, dt: Tensor, S: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k = (x @ self.K.T).softmax(-1) + self.speaker
        S = torch.exp(-dt)[..., None] * S + torch.einsum("bh,bk->bhk", x @ self.V.T, k)
        return S, torch.einsum("bhk,bk->bh", S, k), S.square().mean((1, 2))[:, None]


if __name__ == "__main__":  # says why a model cannot be loaded before modules are imported, and runs all afterwards
    import importlib

    importlib.import_module("everloop")
    folder = Path(sys.argv[1])
    try:
        torch.export.load(folder / "both.pt2").module()(**torch.load(folder / "both.in"))
    except UnsupportedError as error:
        print(error)
    for name in sys.argv[2:]:
        importlib.import_module(name)
    for path in folder.glob("*.pt2"):
        found = torch.export.load(path).module()(**torch.load(path.with_suffix(".in")))
        torch.save(torch.utils._pytree.tree_leaves(found), path.with_suffix(".out"))
