"""Training steps of language models, Everloop beside plain PyTorch: symbols per second, alternating.

Everloop's side has its layer and its head, `linear_cross_entropy`; both have PyTorch's fused AdamW.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import alternate, machine, statistic_option, table
from everloop import linear_cross_entropy
from everloop.layers import torch_nn

SHAPES = [(32, 96, 384), (64, 256, 512), (32, 128, 512)]
"""(B, T, H): the demo's, the README's, the Shakespeare recipe's."""

CHARACTERS, WORDS, EMBEDDING = 65, 10_000, 128


class Symbols(nn.Module):
    """Embedding, one recurrent layer, linear head, cross entropy."""

    def __init__(self, layers: Any, kind: str, hidden: int, symbols: int) -> None:
        super().__init__()
        self.is_ours = layers is torch_nn
        self.embedding = nn.Embedding(symbols, EMBEDDING)
        self.recurrent = getattr(layers, kind)(EMBEDDING, hidden)
        self.head = nn.Linear(hidden, symbols)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of the symbols y [T, B] that follow x."""
        rows = self.recurrent(self.embedding(x))[0]
        if self.is_ours:
            return linear_cross_entropy(rows, self.head.weight, y, linear_bias=self.head.bias)
        return F.cross_entropy(self.head(rows).flatten(0, 1), y.flatten())


CASES = [("LSTM", CHARACTERS), ("GRU", CHARACTERS), ("RNN", CHARACTERS), ("LSTM", WORDS)]


def training_step(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
    """Return a call that makes one update: loss, gradient, clipping, AdamW."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def call() -> None:
        loss = model(x, y)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    statistic_option(parser)
    options = parser.parse_args()
    print(f"{machine()}; {options.statistic} of {options.rounds} rounds\n")
    lines: list[list[object]] = []
    for kind, symbols in CASES:
        for batch, steps, hidden in SHAPES:
            x, y = torch.randint(symbols, (2, steps, batch))
            models = {"everloop": torch_nn, "torch.nn": nn}
            peers = {
                name: training_step(Symbols(layers, kind, hidden, symbols), x, y) for name, layers in models.items()
            }
            seconds = alternate(peers, rounds=options.rounds, statistic=options.statistic)
            rates = [round(batch * steps / seconds[name]) for name in peers]
            shown = [f"{rate:,}" for rate in rates]
            lines.append([kind, symbols, f"{batch}, {steps}, {hidden}", *shown, rates[0] / rates[1]])
    heads = ["layer", "symbols", "B, T, H", "everloop symbols/s", "torch.nn symbols/s", "ratio"]
    print(table(heads, lines))


if __name__ == "__main__":
    main()
