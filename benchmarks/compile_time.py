"""From the first call of a cell to its result and gradients: cold, and warm from the cache on disk, in milliseconds."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

from benchmarks.timing import machine, table
from everloop import cells

NAMES = [name for name in cells.names() if name != "elman"]

FIRST = """
import sys, time, torch
from everloop import cells
from everloop.layers import Recurrent
from everloop.layers.extras import example

def first(name, layers=1):
    kind = cells.named(name)
    layer, x = Recurrent(kind(40, 64, **dict.fromkeys(kind.letters(), 32)), layers=layers), torch.randn(20, 4, 40)
    given = example(layer, x)
    start = time.perf_counter()
    layer(x, **given)[0].sum().backward()
    return 1e3 * (time.perf_counter() - start)

torch.nn.GRU(3, 3)(torch.randn(2, 2, 3))[0].sum().backward()
print(first("elman"), first(sys.argv[1], int(sys.argv[2])))
"""


def first_calls(name: str, layers: int, cache: str) -> tuple[float, float]:
    """Return the milliseconds of the first call of any cell in a new process, and then of `name`."""
    environment = os.environ | {"EVERLOOP_CACHE": cache}
    run = subprocess.run(
        [sys.executable, "-c", FIRST, name, str(layers)], env=environment, check=True, capture_output=True, text=True
    )
    loading, own = map(float, run.stdout.split())
    return loading, own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", nargs="+", choices=NAMES, default=NAMES, metavar="CELL")
    asked = parser.parse_args().cells
    print(machine() + "\n")
    lines: list[list[object]] = []
    for name, layers in [(name, count) for count in (1, 2) for name in asked]:
        with tempfile.TemporaryDirectory() as cache:
            cold_start, cold = first_calls(name, layers, cache)
            warm_start, warm = min((first_calls(name, layers, cache) for _ in range(3)), key=lambda pair: pair[1])
        lines.append([name if layers == 1 else f"{name}, {layers} layers", cold_start, cold, warm_start, warm])
    print("Cold: with an empty cache. elman comes first and loads the compiler and what all cells share.\n")
    print(table(["cell", "cold: elman", "cold: cell", "warm: elman", "warm: cell"], lines))


if __name__ == "__main__":
    main()
