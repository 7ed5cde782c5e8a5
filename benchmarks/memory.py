"""Peak memory of one training step, each in a process of its own, in MiB above the start.

Everloop beside torch.nn; and cells with matrices as states as they run, beside keeping the states of all steps, with
the time of a step, alternating in one process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import nn

from benchmarks.cells import cell_of
from benchmarks.layers import training
from benchmarks.timing import SHAPES, alternate, machine, table
from everloop import cells
from everloop.layers import Recurrent, torch_nn

KINDS = ("RNN", "GRU", "LSTM")


def peak() -> float:
    """Return the most memory this process ever held, in MiB.

    Linux counts to `ru_maxrss` what the process held that started it, so there its own peak is read.
    """
    facts = Path("/proc/self/status")
    if facts.exists():
        (line,) = (line for line in facts.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / (1 << 10)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def layer_of(kind: str, how: str, hidden: int) -> nn.Module:
    """Return a layer as torch.nn has, "ours" or "theirs", or a cell over time that keeps "all" or "some"."""
    if how in ("all", "some"):
        return Recurrent(cell_of(kind, hidden), recompute=0 if how == "all" else None)
    layer: nn.Module = getattr(torch_nn if how == "ours" else nn, kind)(hidden, hidden)
    return layer


def step(kind: str, how: str, shape: tuple[int, int, int], answer: Connection) -> None:
    """Send the peak of a training step, above what a tiny step and the tensors of the caller take."""
    batch, steps, hidden = shape
    layer = layer_of(kind, how, hidden)
    x = torch.randn(steps, batch, hidden, requires_grad=True)
    gradient = torch.randn(steps, batch, hidden)
    torch.autograd.backward(layer(x[:1])[0], gradient[:1])
    layer.zero_grad()
    x.grad = None
    before = peak()
    torch.autograd.backward(layer(x)[0], gradient)
    answer.send(peak() - before)


def measured(kind: str, how: str, shape: tuple[int, int, int]) -> float:
    """Return the peak of one training step in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=step, args=(kind, how, shape, send))
    process.start()
    result: float = receive.recv()
    process.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", type=int, default=[4, 5, 6, 7], help="indices of SHAPES")
    parser.add_argument("--cells", nargs="*", default=["mlstm", "gla", "deltanet"], choices=cells.names())
    parser.add_argument("--long", nargs=3, type=int, default=(32, 1024, 128), help="B, T, H of the cells")
    options = parser.parse_args()
    print(machine() + "\n")
    lines: list[list[object]] = []
    for kind in KINDS:
        for index in options.shapes:
            ours, theirs = (measured(kind, how, SHAPES[index]) for how in ("ours", "theirs"))
            lines.append([kind, ", ".join(map(str, SHAPES[index])), ours, theirs, ours / theirs])
    print(table(["layer", "B, T, H", "ours MiB", "torch.nn MiB", "ours / torch.nn"], lines) + "\n")
    lines, (batch, steps, hidden) = [], options.long
    x, how = torch.randn(steps, batch, hidden), ("some", "all")
    for name in options.cells:
        peaks = [measured(name, each, (batch, steps, hidden)) for each in how]
        calls = {each: training(layer_of(name, each, hidden), x) for each in how}
        seconds = alternate(calls, rounds=2, statistic="minimum")
        times = [1e3 * seconds[each] for each in how]
        lines.append([name, f"{batch}, {steps}, {hidden}", *peaks, peaks[0] / peaks[1], *times, times[0] / times[1]])
    print(table(["cell", "B, T, H", "MiB", "MiB, all kept", "ratio", "ms", "ms, all kept", "ratio"], lines))


if __name__ == "__main__":
    main()
