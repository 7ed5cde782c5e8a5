"""A tiny writer whose sequences can all be listed: the reference for every search."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from everloop import cells


class Tiny(nn.Module):
    """Four symbols, the last one ends; what comes next depends on all before and on the source, a number."""

    stop = 3
    never: tuple[int, ...] = ()

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.cell = cells.GRU(4, 6).double()
        self.start = nn.Embedding(9, 6).double()
        self.head = nn.Linear(6, 4).double()
        with torch.no_grad():
            for weight in self.parameters():
                weight.mul_(3)

    def begin(self, sources: Sequence[Any]) -> tuple[Tensor, Any]:
        state = (self.start(torch.tensor(sources)),)
        return self.head(state[0]), state

    def step(self, symbols: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self.cell(nn.functional.one_hot(symbols, 4).double(), state)
        return self.head(y), state

    def text(self, symbols: Sequence[int]) -> str:
        return "".join("abc."[n] for n in symbols)

    @torch.no_grad()
    def logp(self, source: int, symbols: Sequence[int]) -> float:
        """Return the log-probability of exactly these symbols, one step at a time."""
        logits, state = self.begin([source])
        total = 0.0
        for symbol in symbols:
            total += float(logits.log_softmax(-1)[0, symbol])
            logits, state = self.step(torch.tensor([symbol]), state)
        return total


def everything(model: Tiny, source: int, length: int) -> dict[tuple[int, ...], float]:
    """Return the log-probability of every sequence: those that end within `length` symbols, end included."""
    found = {}
    for count in range(length):
        for symbols in product(range(3), repeat=count):
            found[symbols] = model.logp(source, [*symbols, 3])
    return found
