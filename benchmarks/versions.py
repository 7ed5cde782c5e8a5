"""This checkout against another one, such as the version before: two processes, a turn each, one table of ratios.

A ratio is the other's time divided by ours: above 1 this version is faster. Only public names are used, so that the
other checkout may be old.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.timing import machine, table

HERE = Path(__file__).parents[1]

# name, kind of call, cell, (B, T, H)
CASES: list[tuple[str, str, str, tuple[int, int, int]]] = [
    (f"{kind}, {cell} {shape[0]}, {shape[1]}, {shape[2]}", kind, cell, shape)
    for kind, shapes in {
        "step": [(1, 1, 16), (1, 1, 256)],
        "inference": [(4, 20, 16), (8, 200, 128), (64, 50, 512)],
        "training": [(4, 20, 16), (8, 200, 128), (64, 50, 512)],
        "lengths, inference": [(4, 20, 16), (32, 100, 128)],
        "lengths, training": [(4, 20, 16), (32, 100, 128)],
        "reset, training": [(4, 20, 16), (32, 100, 128)],
        "stacked, training": [(8, 50, 64)],
    }.items()
    for shape in shapes
    for cell in ("lstm", "gru", "peephole-lstm")
]

WORKER = """
import json, sys, time, torch
from everloop import Recurrent, cells

def call_of(kind, cell, shape):
    B, T, H = shape
    layer = Recurrent(cells.named(cell)(H, H), layers=2 if kind.startswith("stacked") else 1)
    torch.manual_seed(0)
    x, options = torch.randn(T, B, H), {}
    if kind == "step":
        layer.eval()
        with torch.no_grad():
            state = layer.step(x[0])[1]
        return lambda: layer.step(x[0], state)
    if kind.startswith("lengths"):
        options["lengths"] = torch.linspace(max(1, T // 10), T, B).round().long()
    if kind.startswith("reset"):
        options["reset"] = torch.rand(T, B) < 0.02
    if kind.endswith("training"):
        return lambda: layer(x, **options)[0].sum().backward()
    return lambda: layer(x, **options)

calls = {}
for line in sys.stdin:
    kind, cell, shape, min_seconds = json.loads(line)
    key = kind, cell, *shape
    is_trained = kind.endswith("training")
    with torch.set_grad_enabled(is_trained):
        if key not in calls:
            calls.clear()
            calls[key] = call_of(kind, cell, shape)
            calls[key]()
        call = calls[key]
        call()
        found, begin = [], time.perf_counter()
        while time.perf_counter() - begin < min_seconds:
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    print(json.dumps(sorted(found)), flush=True)
"""


class Version:
    """A process that runs the calls of one checkout."""

    def __init__(self, folder: Path, threads: int) -> None:
        environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER], cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def turn(self, kind: str, cell: str, shape: tuple[int, int, int], min_seconds: float) -> list[float]:
        """Return the seconds of each call of one turn."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([kind, cell, shape, min_seconds]), file=self.process.stdin, flush=True)
        found: list[float] = json.loads(self.process.stdout.readline())
        return found

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def compare(ours: Version, other: Version, rounds: int, min_seconds: float, only: str) -> list[list[object]]:
    """Return a line for each case: times in microseconds, and the ratio of the minima and of the medians."""
    lines: list[list[object]] = []
    for name, kind, cell, shape in CASES:
        if only not in name:
            continue
        found: tuple[list[float], list[float]] = ([], [])
        for number in range(rounds):
            pair = ((ours, 0), (other, 1))
            for version, place in pair if number % 2 else pair[::-1]:
                found[place].extend(version.turn(kind, cell, shape, min_seconds))
        best = [1e6 * min(times) for times in found]
        middle = [statistics.median(times) for times in found]
        lines.append([name, *best[::-1], best[1] / best[0], middle[1] / middle[0]])
        print(f"{name}: {best[1] / best[0]:.2f}", file=sys.stderr, flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--min-seconds", type=float, default=0.1, help="seconds of a turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    ours, other = Version(HERE, options.threads), Version(options.other.resolve(), options.threads)
    lines = compare(ours, other, options.rounds, options.min_seconds, options.only)
    for version in (ours, other):
        version.close()
    print(f"{machine()}, {options.threads} of them used; {options.rounds} rounds\n")
    header = ["call, cell B, T, H", "other, µs", "ours, µs", "other / ours, minima", "medians"]
    print(table(header, lines))


if __name__ == "__main__":
    main()
