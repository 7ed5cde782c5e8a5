"""Page faults of a translator's training step, with the memory that it frees kept by the process and given back.

The translator: 6,000 words on both sides, embedding of 256, GRU of 512 in both directions, attention; 64 pairs of 30
words. Each way to treat memory has a process of its own. Minor faults of a step, its milliseconds, those in the system.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from time import perf_counter

import torch
from torch import nn

from benchmarks.timing import machine, table
from everloop.data.datasets.parallel import Parallel
from everloop.data.tokenize.pieces import Pieces
from everloop.models import EncoderDecoder
from everloop.train.allocator import keep_freed_memory

WAYS = {"kept": True, "given back": False}


def training_step(
    words: int = 6000, pairs: int = 64, length: int = 30, hidden: int = 512, size: int = 256
) -> Callable[[], None]:
    """Return a call that makes one update of a translator of random sentences: gradient, clipping, AdamW."""
    chance = random.Random(0)

    def sentence() -> str:
        return " ".join(f"w{chance.randrange(words)}" for _ in range(length))

    known = Pieces.learn([" ".join(f"w{n}" for n in range(words))], min_freq=1)
    data = Parallel([(sentence(), sentence()) for _ in range(pairs)], pieces=(known, known))
    model = EncoderDecoder(known, known, hidden=hidden, embedding=size)
    batch = data.collate(data["train"][:])
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)

    def call() -> None:
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(model.loss(batch).mean)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    return call


def used() -> tuple[float, float, float]:
    """Return (minor faults, seconds, seconds in the system) of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt, perf_counter(), usage.ru_stime


def spent(call: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Return (minor faults, milliseconds, those in the system) of a call, the mean of some."""
    for _ in range(2):
        call()
    before = used()
    for _ in range(rounds):
        call()
    faults, seconds, system = (b - a for a, b in zip(before, used(), strict=True))
    return faults / rounds, 1e3 * seconds / rounds, 1e3 * system / rounds


def _measured(keeps: bool, rounds: int, answer: Connection) -> None:
    if keeps and not keep_freed_memory():
        raise SystemExit("this C library cannot be told to keep what is freed; glibc can")
    answer.send(spent(training_step(), rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    print(f"{machine()}; mean of {options.rounds} steps\n")
    context = multiprocessing.get_context("spawn")
    lines: list[list[object]] = []
    for name, keeps in WAYS.items():
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=_measured, args=(keeps, options.rounds, send))
        process.start()
        send.close()
        lines.append([name, *receive.recv()])
        process.join()
    print(table(["freed memory", "minor faults", "ms", "ms in the system"], lines))


if __name__ == "__main__":
    main()
