"""The decoder with attention as one cell against the translator's loop over steps, alternating in one process.

A ratio is the time of the loop divided by that of the cell: above 1 the cell is faster. Both do the same mathematics
with the same sizes: a GRU whose steps read the attention of the state before. The products of keys are included.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.layers import MODES
from benchmarks.timing import alternate, machine, statistic_option, table
from everloop import cells
from everloop.layers import Recurrent
from everloop.models.attention import Attention


class Loop(nn.Module):
    """Steps in Python, as an `EncoderDecoder` with input feeding takes them."""

    def __init__(self, hidden: int, memory: Tensor) -> None:
        super().__init__()
        self.cell = cells.ResetBeforeGRU(2 * hidden, hidden)
        self.attention, self.memory = Attention(hidden, hidden, "additive"), memory

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        lengths = torch.full(self.memory.shape[:1], self.memory.shape[1])
        memory, state = self.attention.remember(self.memory.transpose(0, 1), lengths), self.cell.zeros(x.shape[1], x)
        outputs, means = [], []
        for x_t in x:
            mean, _ = self.attention(state[0][None], memory)
            y, state = self.cell(torch.cat([x_t, mean[0]], -1), state)
            outputs.append(y)
            means.append(mean[0])
        return torch.cat([torch.stack(outputs), torch.stack(means)], -1), torch.empty(0)


class One(nn.Module):
    """The same by `cells.AttentionGRU`: over the whole sequence, or by single steps as in decoding."""

    def __init__(self, hidden: int, memory: Tensor, is_stepped: bool = False) -> None:
        super().__init__()
        self.layer, self.memory = Recurrent(cells.AttentionGRU(hidden, hidden, memory_size=hidden)), memory
        self.is_stepped = is_stepped

    def forward(self, x: Tensor) -> tuple[Any, Any]:
        if not self.is_stepped:
            y, state = self.layer(x, memory=self.memory)
            return torch.cat(y, -1), state
        state, rows = None, []
        for x_t in x:
            y, state = self.layer.step(x_t, state, memory=self.memory)
            rows.append(torch.cat(y, -1))
        return torch.stack(rows), state


def measure(shape: tuple[int, int, int, int], mode: str, rounds: int, statistic: str) -> dict[str, float]:
    """Return the milliseconds of the cell and the ratio of the loop, for B, T, S and H."""
    batch, steps, slots, hidden = shape
    x, memory = torch.randn(steps, batch, hidden), torch.randn(batch, slots, hidden, requires_grad=mode == "training")
    run: Callable[[nn.Module, Tensor], Callable[[], object]] = MODES["training" if mode == "training" else "inference"]
    ours = One(hidden, memory, is_stepped=mode == "single steps")
    seconds = alternate(
        {"ours": run(ours, x), "loop": run(Loop(hidden, memory), x)}, rounds=rounds, statistic=statistic
    )
    return {"ms": seconds["ours"] * 1e3, "ratio": seconds["loop"] / seconds["ours"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modes", nargs="*", default=["training", "inference", "single steps"])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--slots", type=int, default=24)
    parser.add_argument("--hidden", nargs="*", type=int, default=[128, 512])
    statistic_option(parser)
    options = parser.parse_args()
    print(f"{machine()}; {options.statistic} of {options.rounds} rounds; T = {options.steps}, S = {options.slots}\n")
    lines: list[list[object]] = []
    for mode in options.modes:
        for hidden in options.hidden:
            line: list[object] = [mode, hidden]
            for batch in options.batches:
                shape = (batch, options.steps, options.slots, hidden)
                line += measure(shape, mode, options.rounds, options.statistic).values()
            lines.append(line)
    header = [text for batch in options.batches for text in (f"ms, B = {batch}", "loop / cell")]
    print(table(["mode", "H", *header], lines))


if __name__ == "__main__":
    main()
