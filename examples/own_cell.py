"""A cell of one's own in ten lines, trained, kept in a run folder and loaded again."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from everloop.cell import Cell, H, I, bias, param, state
from everloop.data import Text
from everloop.decode import sample
from everloop.models import LanguageModel, load
from everloop.train import train


class LeakyCell(Cell):
    """Each unit keeps a learned share of what it was and takes the rest from what is new."""

    h = state(H)
    W, b = param(H, I + H), bias(H)
    keep = param(H, init=1.0)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the new h."""
        share = torch.sigmoid(self.keep)
        return share * h + (1 - share) * torch.tanh(torch.cat([x, h], -1) @ self.W.T + self.b)


def main(steps: int = 200, hidden: int = 64) -> None:
    """Train for some steps, load what was kept, and write."""
    text = Text.from_string("everything that is carried is carried by the state. " * 200)
    with TemporaryDirectory() as folder:
        model = LanguageModel(text.vocabulary, cell=LeakyCell, hidden=hidden, layers=1)
        run = train(model, text, steps=steps, batch=16, length=32, lr=1e-2, validate=50, out=Path(folder) / "run")
        print(run)
        print(sample(load(run, trust_code=True), "everything", length=60, temperature=0.3, seed=0))


if __name__ == "__main__":
    main()
