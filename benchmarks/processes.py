"""One process with two threads against two processes with one: `everloop train` of the same run, in turns.

    python -m benchmarks.processes
    torchrun --standalone --nproc-per-node 2 -m benchmarks.processes --allreduce 3000000

The second command times the sum of so many float32 gradients over the processes, as training makes it at each update.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.timing import machine, table
from everloop.train.ranks import Ranks

WAYS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}
SKIPPED = 3  # lines of metrics: the first steps compile


def rate(folder: Path, processes: int, threads: int, options: Sequence[str]) -> float:
    """Return the characters a second of the fastest step of a run, after the first ones: others may use the machine."""
    run = folder / "run"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    started = [*launcher, "-m", "everloop"] if processes > 1 else ["-m", "everloop"]
    program = [sys.executable, *started, "train", "language-model"]
    usual = [
        "--text",
        "text.txt",
        "--out",
        "run",
        "--threads",
        str(threads),
        "--log-every",
        "1",
        "--validate",
        "1000000",
    ]
    subprocess.run([*program, *usual, *options], cwd=folder, check=True, capture_output=True)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for path in run.iterdir():
        path.unlink()
    run.rmdir()
    return float(max(line["rate"] for line in lines[SKIPPED:] if line["split"] == "train"))


def compare(turns: int, options: Sequence[str]) -> list[list[str]]:
    """Return a row for each way: characters a second, and how many times those of the first way."""
    letters = random.Random(0).choices("abcdefghijklmnopqrstuvwxyz     \n", k=400_000)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "text.txt").write_text("".join(letters))
        for _ in range(turns):
            for way, (processes, threads) in WAYS.items():
                found[way].append(rate(Path(name), processes, threads, options))
    best = {way: max(rates) for way, rates in found.items()}
    first = next(iter(best.values()))
    return [[way, f"{fastest:,.0f}", f"{fastest / first:.2f}"] for way, fastest in best.items()]


def allreduce(count: int, times: int = 20) -> float:
    """Return the median milliseconds in which `count` gradients are added up."""
    dist.init_process_group("gloo")
    ranks, weight = Ranks.joined(), nn.Parameter(torch.zeros(count))
    taken = []
    for _ in range(times):
        weight.grad = torch.ones(count)
        ranks.any(False)
        began = time.perf_counter()
        ranks.add_gradients([weight])
        taken.append(1e3 * (time.perf_counter() - began))
    dist.destroy_process_group()
    return statistics.median(taken)


def main() -> None:
    """Print the machine and the table, or one time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--allreduce", type=int, default=0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=17)
    given = parser.parse_args()
    if given.allreduce:
        milliseconds = allreduce(given.allreduce)
        if os.environ["RANK"] == "0":
            print(f"{given.allreduce:,} gradients: {milliseconds:.1f} ms")
        return
    print(machine())
    for title, more in {"": [], ", dropout 0.2": ["--dropout", "0.2"]}.items():
        shape = ["--hidden", "256", "--layers", "2", "--batch", "64", "--length", "100", "--steps", str(given.steps)]
        print(f"\nGRU 2×256, 64 streams of 100 characters{title}")
        print(table(["", "characters/s", "ratio"], compare(given.turns, [*shape, *more])))


if __name__ == "__main__":
    main()
