"""Training steps of a character model, Everloop beside plain PyTorch: characters per second, alternating."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import alternate, machine, statistic_option, table
from everloop.layers import torch_nn

SHAPES = [(32, 96, 384), (64, 256, 512), (32, 128, 512)]
"""(B, T, H): the demo's, the README's, the Shakespeare recipe's."""

SYMBOLS, EMBEDDING = 65, 128


class Characters(nn.Module):
    """Embedding, one recurrent layer, linear head."""

    def __init__(self, layer: Any, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, EMBEDDING)
        self.recurrent = layer(EMBEDDING, hidden)
        self.head = nn.Linear(hidden, SYMBOLS)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.recurrent(self.embedding(x))[0])
        return logits


def training_step(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
    """Return a call that makes one update: loss, gradient, clipping, AdamW."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def call() -> None:
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
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
    for kind in ("LSTM", "GRU", "RNN"):
        for batch, steps, hidden in SHAPES:
            x, y = torch.randint(SYMBOLS, (2, steps, batch))
            peers = {
                "everloop": training_step(Characters(getattr(torch_nn, kind), hidden), x, y),
                "torch.nn": training_step(Characters(getattr(nn, kind), hidden), x, y),
            }
            seconds = alternate(peers, rounds=options.rounds, statistic=options.statistic)
            rates = [round(batch * steps / seconds[name]) for name in peers]
            shown = [f"{rate:,}" for rate in rates]
            lines.append([kind, f"{batch}, {steps}, {hidden}", *shown, rates[0] / rates[1]])
    print(table(["layer", "B, T, H", "everloop characters/s", "torch.nn characters/s", "ratio"], lines))


if __name__ == "__main__":
    main()
