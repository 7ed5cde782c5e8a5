"""Long streams of text: a million steps in windows, memory as it goes; and long windows with and without recompute."""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import string
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.memory import peak
from benchmarks.timing import machine, table
from everloop.data import Text
from everloop.layers.recompute import Recompute
from everloop.models import LanguageModel
from everloop.train import Event, Stepped, train

STEPS = 4  # that are timed of each window


def resident() -> float:
    """Return the memory that this process holds now, in MiB; where the system does not tell, the most it ever held."""
    facts = Path("/proc/self/statm")
    return int(facts.read_text().split()[1]) * resource.getpagesize() / (1 << 20) if facts.exists() else peak()


def letters(count: int) -> Text:
    """Return a text of random letters, with the end of a document in every thousand or so."""
    drawn = torch.randint(1000, (count,), generator=torch.Generator().manual_seed(0)).tolist()
    symbols = "".join(string.ascii_lowercase[n % 26] if n else "#" for n in drawn)
    return Text.from_string(symbols, split=(1, 0, 0), documents="#")


def stream(steps: int, window: int, hidden: int) -> tuple[list[float], float]:
    """Return (resident memory at each tenth of one stream that is trained on in windows, seconds)."""
    text, updates = letters(steps + 1 + window), steps // window
    model = LanguageModel(text.vocabulary, cell="lstm", hidden=hidden, layers=1)
    found: list[float] = []

    def report(event: Event) -> None:
        if isinstance(event, Stepped):
            found.append(resident())

    begin = time.perf_counter()
    train(
        model,
        text,
        steps=updates,
        batch=1,
        length=window,
        log_every=max(1, updates // 10),
        validate=updates,
        report=report,
    )
    return found, time.perf_counter() - begin


def step(window: int, batch: int, hidden: int, recompute: Recompute, answer: Connection) -> None:
    """Send (MiB that a training step on a window takes at most, seconds of the quickest of the next ones)."""
    text = letters(batch * window + 1)
    torch.manual_seed(0)
    model = LanguageModel(text.vocabulary, cell="lstm", hidden=hidden, layers=2, recompute=recompute)
    torch.autograd.backward(model.loss(text.epoch("train", 0, batch=batch, length=8)[0]).mean)
    batch_ = text.epoch("train", 0, batch=batch, length=window)[0]
    before = peak()
    torch.autograd.backward(model.loss(batch_).mean)
    used, seconds = peak() - before, []
    for _ in range(STEPS):
        begin = time.perf_counter()
        torch.autograd.backward(model.loss(batch_).mean)
        seconds.append(time.perf_counter() - begin)
    answer.send((used, min(seconds)))


def measured(window: int, batch: int, hidden: int, recompute: Recompute) -> tuple[float, float]:
    """Return what `step` sends, from a fresh process."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=step, args=(window, batch, hidden, recompute, send))
    process.start()
    result: tuple[float, float] = receive.recv()
    process.join()
    return result


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000, help="of the stream")
    parser.add_argument("--length", type=int, default=256, help="of its windows")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--windows", nargs="*", type=int, default=[1024, 4096, 16384], help="long ones")
    parser.add_argument("--batch", type=int, default=8, help="streams of long windows")
    options = parser.parse_args(args)
    print(machine() + "\n")
    found, seconds = stream(options.steps, options.length, options.hidden)
    memory = " ".join(f"{mib:.1f}" for mib in found)
    print(f"{options.steps:,} steps of one stream in {seconds:.0f} s; MiB at each tenth: {memory}\n")
    lines: list[list[object]] = []
    for window in options.windows:
        whole = measured(window, options.batch, options.hidden, 0)
        lines.append([f"{window:,}", "0", *whole, 1.0, 1.0])
        segments: tuple[Recompute, ...] = (round(window**0.5), "auto")
        for segment in segments:
            used = measured(window, options.batch, options.hidden, segment)
            lines.append([f"{window:,}", f"{segment}", *used, used[0] / whole[0], used[1] / whole[1]])
    print(table(["length", "recompute", "MiB", "s", "memory, of that of 0", "time, of that of 0"], lines))


if __name__ == "__main__":
    main()
