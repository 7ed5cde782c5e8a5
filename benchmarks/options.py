"""What lengths, resets, direction and batch_first cost, against the plain call; and PackedSequence in torch.nn."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from benchmarks.layers import MODES
from benchmarks.timing import SHAPES, alternate, machine, statistic_option, table
from everloop import cells
from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call
from everloop.layers import Recurrent
from everloop.layers.dispatch import run

SHORTEST = 10  # steps


class WithOptions(nn.Module):
    """A layer called with fixed further arguments."""

    def __init__(self, layer: nn.Module, **arguments: object) -> None:
        super().__init__()
        self.layer, self.arguments = layer, arguments

    def forward(self, x: torch.Tensor) -> object:
        return self.layer(x, **self.arguments)


class Packed(nn.Module):
    """torch.nn's own way for ragged batches: pack, run; packing itself is not timed."""

    def __init__(self, layer: nn.Module, lengths: torch.Tensor) -> None:
        super().__init__()
        self.layer, self.lengths = layer, lengths

    def forward(self, x: torch.Tensor) -> object:
        y, state = self.layer(pack_padded_sequence(x, self.lengths, enforce_sorted=False))
        return y.data, state


class Backwards(nn.Module):
    """A cell run from the end."""

    def __init__(self, cell: cells.LSTM) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: torch.Tensor) -> object:
        values, start = Bindings(dict(self.cell.named_parameters())), self.cell.zeros(x.shape[1], x)
        return run(self.cell, Call.of(values, x, start, reverse=True))


def spread(batch: int, steps: int) -> torch.Tensor:
    """Return lengths evenly spread over 10 to `steps`, mixed, the same in every run; one alone is in the middle."""
    if batch == 1:
        return torch.tensor([(SHORTEST + steps) // 2])
    even = torch.linspace(SHORTEST, steps, batch).round().to(torch.int64)
    return even[torch.randperm(batch, generator=torch.Generator().manual_seed(0))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    statistic_option(parser)
    parser.add_argument("--shapes", nargs="*", type=int, default=range(len(SHAPES)), help="indices of SHAPES")
    options = parser.parse_args()
    print(f"{machine()}; {options.statistic} of {options.rounds} rounds")
    print("Time of the call / time of the plain call of the same layer; packed: torch.nn's packed time / ours.\n")
    for mode, make in MODES.items():
        lines: list[list[object]] = []
        for index in options.shapes:
            batch, steps, hidden = SHAPES[index]
            x = torch.randn(steps, batch, hidden)
            cell, theirs = cells.LSTM(hidden, hidden), nn.LSTM(hidden, hidden)
            lengths, again = spread(batch, steps), torch.Generator().manual_seed(0)
            swapped = x.transpose(0, 1).contiguous()
            peers: dict[str, Callable[[], object]] = {
                "plain": make(Recurrent(cell), x),
                "lengths": make(WithOptions(Recurrent(cell), lengths=lengths), x),
                "reset": make(WithOptions(Recurrent(cell), reset=torch.rand(steps, batch, generator=again) < 0.01), x),
                "reverse": make(Backwards(cell), x),
                "batch_first": make(Recurrent(cell, batch_first=True), swapped),
                "packed": make(Packed(theirs, lengths), x),
            }
            seconds = alternate(peers, rounds=options.rounds, statistic=options.statistic)
            ratios = [seconds[k] / seconds["plain"] for k in ("lengths", "reset", "reverse", "batch_first")]
            share = float(lengths.sum()) / (batch * steps)
            lines.append([f"{batch}, {steps}, {hidden}", share, *ratios, seconds["packed"] / seconds["lengths"]])
        header = ["B, T, H", "useful", "lengths", "reset", "reverse", "batch_first", "packed / ours"]
        print(f"### LSTM, {mode}\n\n{table(header, lines)}\n", flush=True)


if __name__ == "__main__":
    main()
