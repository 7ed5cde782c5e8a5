"""Campaigns: `python -m tests.random_cells --cells 20000 --seed 7 --processes 2`; `--only N` looks at one cell.

`--form bfloat16` (float16, int8) checks them in that format, in one process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from multiprocessing import get_context

from tests.random_cells.campaign import Tally, checked_block, drawn
from tests.random_cells.formats import run

BLOCK = 25


def main() -> int:
    """Return 1 where any cell is wrong, 0 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.random_cells", description=__doc__)
    parser.add_argument("--cells", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--tries", type=int, default=300, help="checks spent on making a failure small")
    parser.add_argument("--only", type=int, help="print and check the cell of this number")
    parser.add_argument("--form", choices=["bfloat16", "float16", "int8"], help="check cells in this format")
    given = parser.parse_args()
    if given.only is not None:
        cell, case = drawn(given.seed, given.only)
        print(cell.source(), case, sep="\n")
        given.first, given.cells = given.only, 1
    blocks = [
        (given.seed, first, min(BLOCK, given.first + given.cells - first), given.tries)
        for first in range(given.first, given.first + given.cells, BLOCK)
    ]
    total, began, told = Tally(), time.monotonic(), time.monotonic()
    numbers = range(given.first, given.first + given.cells)
    parts = run(given.seed, numbers, given.form) if given.form else _parts(blocks, given.processes)
    for part in parts:
        total += part
        for number, text in part.failures.items():
            print(f"\n# cell {number} of seed {given.seed}\n{text}", flush=True)
        if time.monotonic() - told > 20:
            told = time.monotonic()
            print(_line(total, told - began), flush=True)
    print(_line(total, time.monotonic() - began))
    for reason, count in total.reasons.most_common(20):
        print(f"{count:6} eager: {reason}")
    return 1 if total.failures else 0


def _parts(blocks: list[tuple[int, int, int, int]], processes: int) -> Iterator[Tally]:
    if processes == 1:
        yield from map(checked_block, blocks)
        return
    with get_context("spawn").Pool(processes, maxtasksperchild=40) as pool:
        yield from pool.imap_unordered(checked_block, blocks)


def _line(total: Tally, seconds: float) -> str:
    n = total.checked + total.void
    return (
        f"{n} cells in {seconds:.0f} s ({n / seconds:.1f} a second), {total.share:.1%} compiled, "
        f"{total.void} void, {len(total.failures)} wrong"
    )


if __name__ == "__main__":
    raise SystemExit(main())
