"""A small text, a small model, and their training, for tests of training and of the command line."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from everloop import cells
from everloop.cell import Cell
from everloop.data import Text
from everloop.models import LanguageModel
from everloop.train import TrainConfig

TEXT = Text.from_string("the cat sat on the mat and the rat sat on the cat.\n" * 40, split=(0.9, 0.1, 0))
# no pass ends on a validation, so that a resumed run begins in the middle of one
CONFIG = TrainConfig(
    steps=30, batch=3, length=11, lr=1e-2, warmup=3, validate=10, log_every=4, ema_decay=0.9, clip_value=0.5, seed=7
)
BASE = TrainConfig(steps=12, batch=3, length=11, lr=2e-2, warmup=2, validate=4, log_every=4)
# of a run on the command line
SMALL = [
    "--batch",
    "2",
    "--length",
    "8",
    "--hidden",
    "8",
    "--layers",
    "1",
    "--cell",
    "lstm",
    "--log_every",
    "1",
    "--validate",
    "50",
    "--threads",
    "1",
]


def small_model(cell: type[Cell] = cells.LSTM, dropout: float = 0.3) -> LanguageModel:
    """Return a small untrained model, always with the same weights."""
    torch.manual_seed(3)
    return LanguageModel(TEXT.vocabulary, cell=cell, hidden=6, layers=2, embedding=5, dropout=dropout)


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]
