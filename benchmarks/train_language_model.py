"""Training steps of language models, Everloop beside plain PyTorch: symbols per second, alternating.

Everloop's side has its layer, which reads the symbols (`Embedded`), and its head, `linear_cross_entropy`; both have
PyTorch's fused AdamW. With --autocast both train in bfloat16, under PyTorch's own autocast. --parts says where a step's
milliseconds go: forward, backward, clipping, update.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import STATISTICS, alternate, machine, statistic_option, table
from everloop import Recurrent, cells, linear_cross_entropy
from everloop.layers import Embedded

SHAPES = [(32, 96, 384), (64, 256, 512), (32, 128, 512)]
"""(B, T, H): the demo's, the README's, the Shakespeare recipe's."""

CHARACTERS, WORDS, EMBEDDING = 65, 10_000, 128


CELLS: dict[str, Any] = {"LSTM": cells.LSTM, "GRU": cells.GRU, "RNN": cells.Elman}


class Symbols(nn.Module):
    """Embedding, one recurrent layer, linear head, cross entropy."""

    def __init__(self, is_ours: bool, kind: str, hidden: int, symbols: int) -> None:
        super().__init__()
        self.is_ours = is_ours
        self.embedding = nn.Embedding(symbols, EMBEDDING)
        theirs = getattr(nn, kind)
        self.recurrent: Any = Recurrent(CELLS[kind](EMBEDDING, hidden)) if is_ours else theirs(EMBEDDING, hidden)
        self.head = nn.Linear(hidden, symbols)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of the symbols y [T, B] that follow x."""
        if self.is_ours:
            rows = self.recurrent(Embedded(x, self.embedding.weight))[0]
            return linear_cross_entropy(rows, self.head.weight, y, linear_bias=self.head.bias)
        rows = self.recurrent(self.embedding(x))[0]
        return F.cross_entropy(self.head(rows).flatten(0, 1), y.flatten())


CASES = [("LSTM", CHARACTERS), ("GRU", CHARACTERS), ("RNN", CHARACTERS), ("LSTM", WORDS)]


PEERS = ("everloop", "torch.nn")
PARTS = ("forward", "backward", "clipping", "update")


def training_step(
    model: nn.Module, x: Tensor, y: Tensor, low: torch.dtype | None = None, spent: dict[str, list[float]] | None = None
) -> Callable[[], object]:
    """Return a call that makes one update: loss, gradient, clipping, AdamW.

    low: the dtype that autocast asks for, if at all; spent: where to note the seconds of each part.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def call() -> None:
        times = [perf_counter()]
        with torch.autocast("cpu", low or torch.bfloat16, enabled=low is not None):
            loss = model(x, y)
        optimiser.zero_grad(set_to_none=True)
        times.append(perf_counter())
        torch.autograd.backward(loss)
        times.append(perf_counter())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        times.append(perf_counter())
        optimiser.step()
        times.append(perf_counter())
        if spent is not None:
            for part, begin, end in zip(PARTS, times, times[1:], strict=False):
                spent.setdefault(part, []).append(end - begin)

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    statistic_option(parser)
    parser.add_argument("--autocast", action="store_true")
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--layers", nargs="*", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--symbols", nargs="*", type=int, choices=(CHARACTERS, WORDS), default=(CHARACTERS, WORDS))
    options = parser.parse_args()
    low = torch.bfloat16 if options.autocast else None
    print(f"{machine()}; {options.statistic} of {options.rounds} rounds{', autocast to bfloat16' * options.autocast}\n")
    lines: list[list[object]] = []
    for kind, symbols in CASES:
        if kind not in options.layers or symbols not in options.symbols:
            continue
        for batch, steps, hidden in SHAPES:
            x, y = torch.randint(symbols, (2, steps, batch))
            spent: dict[str, dict[str, list[float]]] = {name: {} for name in PEERS}
            peers = {
                name: training_step(Symbols(name == "everloop", kind, hidden, symbols), x, y, low, parts)
                for name, parts in spent.items()
            }
            seconds = alternate(peers, rounds=options.rounds, statistic=options.statistic)
            rates = [round(batch * steps / seconds[name]) for name in peers]
            line: list[object] = [kind, symbols, f"{batch}, {steps}, {hidden}", *(f"{rate:,}" for rate in rates)]
            line.append(rates[0] / rates[1])
            if options.parts:
                at = STATISTICS[options.statistic]
                line += [", ".join(f"{1e3 * at(parts[part]):.1f}" for part in PARTS) for parts in spent.values()]
            lines.append(line)
    heads = ["layer", "symbols", "B, T, H", "everloop symbols/s", "torch.nn symbols/s", "ratio"]
    print(table([*heads, *(f"{name}: {', '.join(PARTS)}, ms" for name in PEERS if options.parts)], lines))


if __name__ == "__main__":
    main()
