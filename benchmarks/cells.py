"""Every cell against the eager loop, and memories of heads against their chunked form, alternating in one process.

A ratio is the time of the peer divided by ours: above 1 we are faster. Of the peak: how much of our time the arithmetic
(a) or the memory (m) alone would take at the machine's own speed (`benchmarks/work.py`). The chunked form is the
published parallel one (`benchmarks/chunked.py`): `--peers chunked` compares it alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.chunked import CHUNKED, Chunked
from benchmarks.layers import MODES
from benchmarks.timing import alternate, geometric_mean, machine, statistic_option, table
from benchmarks.work import work_of
from everloop import cells
from everloop.cell import Cell
from everloop.layers import Recurrent
from everloop.layers.extras import example

SIZES: dict[str, Callable[[int], int]] = {
    "backbone_size": lambda hidden: hidden,
    "depth": lambda hidden: 3,
    "embedding_size": lambda hidden: 8,
    "height": lambda hidden: 1,
    "heads": lambda hidden: 4,
    "hyper_size": lambda hidden: hidden // 4,
    "key_size": lambda hidden: hidden // 8,
    "memory_size": lambda hidden: hidden,
    "order": lambda hidden: hidden // 2,
    "proj_size": lambda hidden: hidden // 2,
    "rank": lambda hidden: 8,
    "reach": lambda hidden: 1,
    "state_size": lambda hidden: hidden // 4,
    "width": lambda hidden: 2,
}
"""What the further sizes of a cell are, of its units."""


def cell_of(name: str, hidden: int) -> Cell:
    """Return the cell of this name with as many inputs as units, and SIZES for the rest."""
    kind = cells.named(name)
    sizes: dict[str, Any] = {letter: SIZES[letter](hidden) for letter in kind.letters()}
    return kind(hidden, hidden, **sizes)


class Told(nn.Module):
    """A layer with all that its cell declares beside x, called with x alone; several outputs stand side by side."""

    def __init__(self, layer: Recurrent, x: Tensor) -> None:
        super().__init__()
        self.layer, self.given = layer, example(layer, x)

    def forward(self, x: Tensor) -> Any:
        y, state = self.layer(x, **self.given)
        return torch.cat(y, -1) if isinstance(y, tuple) else y, state


def measure(
    name: str, shape: tuple[int, int, int], mode: str, rounds: int, statistic: str, chunk: int = 0
) -> dict[str, float]:
    """Return the milliseconds of ours and the peer's ratio: the eager loop, or the chunked form of `chunk` steps.

    Beside the eager loop also which shares of our time its arithmetic and its memory alone would take.
    """
    batch, steps, hidden = shape
    x, cell, run = torch.randn(steps, batch, hidden), cell_of(name, hidden), MODES[mode]
    ours: nn.Module = Told(Recurrent(cell), x)
    peer = Chunked(name, cell, chunk) if chunk else Told(Recurrent(cell, target="eager"), x)
    call = run(ours, x)
    seconds = alternate({"ours": call, "peer": run(peer, x)}, rounds=rounds, statistic=statistic)
    found = {"ms": seconds["ours"] * 1e3, "ratio": seconds["peer"] / seconds["ours"]}
    if chunk:
        return found
    work = work_of(call)
    return found | {"a": work.arithmetic() / seconds["ours"], "m": work.memory() / seconds["ours"]}


def of_the_peak(found: dict[str, float]) -> str:
    """Return the larger of the two shares and which it is."""
    kind = max("a", "m", key=lambda kind: found[kind])
    return f"{found[kind]:.0%} {kind}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", nargs="*", default=cells.names(), choices=cells.names())
    parser.add_argument("--peers", nargs="*", default=["eager", "chunked"], choices=["eager", "chunked"])
    parser.add_argument("--modes", nargs="*", default=[*MODES], choices=[*MODES])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--chunk", type=int, default=64, help="steps of a chunk")
    parser.add_argument("--lengths", nargs="*", type=int, default=[256, 1024, 4096], help="of the chunked form")
    statistic_option(parser)
    options = parser.parse_args()
    how = (options.rounds, options.statistic)
    print(f"{machine()}; {options.statistic} of {options.rounds} rounds; H = {options.hidden}\n")
    for mode in options.modes if "eager" in options.peers else ():
        lines: list[list[object]] = []
        for name in options.cells:
            shapes = [(batch, options.steps, options.hidden) for batch in options.batches]
            found = [measure(name, shape, mode, *how) for shape in shapes]
            lines.append([name, *(value for one in found for value in (one["ms"], one["ratio"], of_the_peak(one)))])
            lines[-1].append(geometric_mean(one["ratio"] for one in found))
        header = [text for batch in options.batches for text in (f"ms, B = {batch}", "eager / ours", "of the peak")]
        print(f"### The eager loop, {mode}, T = {options.steps}\n\n" + table(["cell", *header, "mean"], lines), "\n")
    for mode in options.modes if "chunked" in options.peers else ():
        lines = []
        for name in [name for name in options.cells if name in CHUNKED]:
            for batch in options.batches:
                shapes = [(batch, steps, options.hidden) for steps in options.lengths]
                found = [measure(name, shape, mode, *how, chunk=options.chunk) for shape in shapes]
                lines.append([name, batch, *(value for one in found for value in one.values())])
        header = [text for steps in options.lengths for text in (f"ms, T = {steps}", "chunked / ours")]
        print(f"### The chunked form, {mode}\n\n" + table(["cell", "B", *header], lines), "\n")


if __name__ == "__main__":
    main()
