"""A loop inside a step: the first calls in a new process with an empty cache, and later ones, counted and unrolled.

`written-out` is the same step with a line for each turn, in which no loop is found; `between` has work of the state
before and behind its loop, and `matrices` a matrix for each turn: these are unrolled too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.timing import alternate, machine, statistic_option, table
from everloop import Cell, H, I, Recurrent, param, state

TURNS = (1, 8, 50, 200)
MOST = 50  # matrices
SIZES = [(32, 8, 64, 8), (32, 8, 64, 50), (128, 32, 64, 8), (128, 32, 64, 50), (32, 1, 64, 50), (64, 32, 256, 8)]
"""(T, B, H, turns)."""


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


class Between(Euler):
    """The loop, between a product of the state and `tanh`."""

    def step(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        u, h = x @ self.W.T, h @ self.R.T
        for _ in range(self.turns):
            h = h + 0.1 * torch.tanh(u + h @ self.R.T + self.b)
        return torch.tanh(h)


class Matrices(Euler):
    """The loop, with a matrix for each turn."""

    R = param(MOST, H, H)

    def step(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        u = x @ self.W.T
        for k in range(self.turns):
            h = h + 0.1 * torch.tanh(u + h @ self.R[k].T + self.b)
        return h


def written_out(inputs: int, hidden: int, *, turns: int) -> Cell:
    """Return the cell whose step has a line for each turn."""
    lines = "\n    h = h + 0.1 * torch.tanh(u + h @ self.R.T + self.b)" * turns
    found: dict[str, Any] = {"torch": torch}
    exec(f"def step(self, x, h):\n    u = x @ self.W.T{lines}\n    return h", found)
    kind: type[Euler] = type("WrittenOut", (Euler,), {"step": found["step"]})
    return kind(inputs, hidden, turns=turns)


KINDS: dict[str, Callable[..., Cell]] = {
    "euler": Euler,
    "written-out": written_out,
    "between": Between,
    "matrices": Matrices,
}


def modes(cell: Cell, steps: int, batch: int) -> dict[str, Callable[[], None]]:
    """Return a call of a layer in training, in inference, and of a single step."""
    torch.manual_seed(0)
    layer, x = Recurrent(cell), torch.randn(steps, batch, cell.input_size)

    def training() -> None:
        layer.zero_grad()
        layer(x)[0].sum().backward()

    @torch.no_grad()
    def inference() -> None:
        layer(x)

    @torch.no_grad()
    def single() -> None:
        layer.step(x[0])

    return {"training": training, "inference": inference, "step": single}


def calls(turns: int, kind: str = "euler") -> list[float]:
    """Return milliseconds of the first call of each mode, and of the best of five later ones."""

    def timed(call: Callable[[], None]) -> float:
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)

    each = modes(KINDS[kind](40, 64, turns=turns), 32, 8).values()
    return [*map(timed, each), *(min(timed(call) for _ in range(5)) for call in each)]


def in_a_new_process(turns: int, kind: str) -> list[float]:
    """Return the same with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "benchmarks.inner_steps", "--here", "--turns", str(turns), "--kinds", kind]
        run = subprocess.run(
            command, env=os.environ | {"EVERLOOP_CACHE": cache}, check=True, capture_output=True, text=True
        )
    return [*map(float, run.stdout.split())]


def beside_unrolled(rounds: int, statistic: str) -> None:
    """Print milliseconds of the step as a loop and written out."""
    lines: list[list[object]] = []
    for steps, batch, hidden, turns in SIZES:
        line: list[object] = [", ".join(map(str, (steps, batch, hidden, turns)))]
        peers = [modes(KINDS[kind](40, hidden, turns=turns), steps, batch) for kind in ("euler", "written-out")]
        for mode in ("training", "inference"):
            both = {kind: peer[mode] for kind, peer in zip(("counted", "unrolled"), peers, strict=True)}
            line += [1e3 * each for each in alternate(both, rounds=rounds, statistic=statistic).values()]
        lines.append(line)
    heads = ["training: counted", "unrolled", "inference: counted", "unrolled"]
    print(table(["T, B, H, turns", *heads], lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    statistic_option(parser)
    parser.add_argument("--turns", nargs="+", type=int, default=TURNS, help="of the loop")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["euler"])
    parser.add_argument("--unrolled", action="store_true", help="the loop beside the same step written out")
    parser.add_argument("--here", action="store_true", help="in this process, without a table")
    options = parser.parse_args()
    if options.here:
        calls(1)  # loads the compiler
        print(*calls(options.turns[0], options.kinds[0]))
        return
    print(f"{machine()}, milliseconds")
    if options.unrolled:
        beside_unrolled(options.rounds, options.statistic)
        return
    cases = [(kind, turns) for kind in options.kinds for turns in options.turns]
    lines: list[list[object]] = [[f"{kind}, {turns}", *in_a_new_process(turns, kind)] for kind, turns in cases]
    heads = ["first training", "first inference", "first step", "training", "inference", "step"]
    print(f"T, B, H = 32, 8, 64\n\n{table(['turns', *heads], lines)}")


if __name__ == "__main__":
    main()
