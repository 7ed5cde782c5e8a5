"""A loop inside a step: the first training and inference call in a new process with an empty cache, and later ones."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch

from benchmarks.timing import machine, table
from everloop import Cell, H, I, Recurrent, param, state

TURNS = (1, 8, 50, 200)


class Euler(Cell):
    """Euler's method: `turns` steps of h' = tanh(W x + R h + b) within one step of the input."""

    turns: int = 1
    h = state(H)
    W, R, b = param(H, I), param(H, H), param(H)

    def step(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        u = x @ self.W.T
        for _ in range(self.turns):
            h = h + 0.1 * torch.tanh(u + h @ self.R.T + self.b)
        return h


def calls(turns: int) -> tuple[float, float, float, float]:
    """Return milliseconds of the first training and inference call, and of the best of five later ones."""
    torch.manual_seed(0)
    layer, x = Recurrent(Euler(40, 64, turns=turns)), torch.randn(32, 8, 40)

    def training() -> None:
        layer.zero_grad()
        layer(x)[0].sum().backward()

    @torch.no_grad()
    def inference() -> None:
        layer(x)

    def timed(call: Callable[[], None]) -> float:
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)

    def best(call: Callable[[], None]) -> float:
        return min(timed(call) for _ in range(5))

    return timed(training), timed(inference), best(training), best(inference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", nargs="+", type=int, default=TURNS, help="of the loop")
    parser.add_argument("--here", action="store_true", help="in this process, without a table")
    options = parser.parse_args()
    if options.here:
        calls(1)  # loads the compiler
        print(*calls(options.turns[0]))
        return
    lines: list[list[object]] = []
    for turns in options.turns:
        with tempfile.TemporaryDirectory() as cache:
            command = [sys.executable, "-m", "benchmarks.inner_steps", "--here", "--turns", str(turns)]
            run = subprocess.run(
                command, env=os.environ | {"EVERLOOP_CACHE": cache}, check=True, capture_output=True, text=True
            )
        lines.append([turns, *map(float, run.stdout.split())])
    print(machine() + ", milliseconds; T, B, H = 32, 8, 64\n")
    print(table(["turns", "first training", "first inference", "training", "inference"], lines))


if __name__ == "__main__":
    main()
