"""Peak memory of one training step, Everloop and torch.nn each in a process of its own, in MiB above the start."""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
from multiprocessing.connection import Connection

import torch
from torch import nn

from benchmarks.timing import SHAPES, machine, table
from everloop.layers import torch_nn

KINDS = ("RNN", "GRU", "LSTM")


def peak() -> float:
    """Return the most memory this process ever held, in MiB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def step(kind: str, ours: bool, shape: tuple[int, int, int], answer: Connection) -> None:
    """Send the peak of a training step, above what a tiny step and the tensors of the caller take."""
    batch, steps, hidden = shape
    layer = getattr(torch_nn if ours else nn, kind)(hidden, hidden)
    x = torch.randn(steps, batch, hidden, requires_grad=True)
    gradient = torch.randn(steps, batch, hidden)
    torch.autograd.backward(layer(x[:1])[0], gradient[:1])
    layer.zero_grad()
    x.grad = None
    before = peak()
    torch.autograd.backward(layer(x)[0], gradient)
    answer.send(peak() - before)


def measured(kind: str, ours: bool, shape: tuple[int, int, int]) -> float:
    """Return the peak of one training step in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=step, args=(kind, ours, shape, send))
    process.start()
    result: float = receive.recv()
    process.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", type=int, default=[4, 5, 6, 7], help="indices of SHAPES")
    options = parser.parse_args()
    print(machine() + "\n")
    lines: list[list[object]] = []
    for kind in KINDS:
        for index in options.shapes:
            ours, theirs = measured(kind, True, SHAPES[index]), measured(kind, False, SHAPES[index])
            lines.append([kind, ", ".join(map(str, SHAPES[index])), ours, theirs, ours / theirs])
    print(table(["layer", "B, T, H", "ours MiB", "torch.nn MiB", "ours / torch.nn"], lines))


if __name__ == "__main__":
    main()
