"""From the first call of a cell to its result and gradients: cold, and warm from the cache on disk, in milliseconds."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from benchmarks.timing import machine, table

CELLS = ("lstm", "peephole-lstm", "layer-norm-lstm", "reset-before-gru", "minimal-gated-unit")

FIRST = """
import sys, time, torch
from everloop import cells
from everloop.layers import Recurrent

def first(name):
    layer, x = Recurrent(cells.named(name)(40, 64)), torch.randn(20, 4, 40)
    start = time.perf_counter()
    layer(x)[0].sum().backward()
    return 1e3 * (time.perf_counter() - start)

torch.nn.GRU(3, 3)(torch.randn(2, 2, 3))[0].sum().backward()
print(first("elman"), first(sys.argv[1]))
"""


def first_calls(name: str, cache: str) -> tuple[float, float]:
    """Return the milliseconds of the first call of any cell in a new process, and then of `name`."""
    environment = os.environ | {"EVERLOOP_CACHE": cache}
    run = subprocess.run(
        [sys.executable, "-c", FIRST, name], env=environment, check=True, capture_output=True, text=True
    )
    loading, own = map(float, run.stdout.split())
    return loading, own


def main() -> None:
    print(machine() + "\n")
    lines: list[list[object]] = []
    for name in CELLS:
        with tempfile.TemporaryDirectory() as cache:
            cold_start, cold = first_calls(name, cache)
            warm_start, warm = min((first_calls(name, cache) for _ in range(3)), key=lambda pair: pair[1])
        lines.append([name, cold_start, cold, warm_start, warm])
    print("Cold: with an empty cache. elman comes first and loads the compiler and what all cells share.\n")
    print(table(["cell", "cold: elman", "cold: cell", "warm: elman", "warm: cell"], lines))


if __name__ == "__main__":
    main()
