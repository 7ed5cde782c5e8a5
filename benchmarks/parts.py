"""Where the time of a call goes (loops, large products, the rest), beside what its arithmetic alone would take.

The arithmetic is that of all products with matrices, at the speed of the machine's best large product; `torch.nn /
arithmetic` is therefore the ratio that no implementation in the same precision can exceed. Milliseconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.layers import MODES, TWINS, products
from benchmarks.peak import gigaflops_of_products
from benchmarks.timing import SHAPES, alternate, geometric_mean, machine, table
from everloop import cells
from everloop.compiler.targets.llvm.launch import NativeKernel
from everloop.compiler.targets.llvm.matrices import Products
from everloop.layers import Recurrent

PARTS = ("forward loop", "gradient loop", "products")


@contextmanager
def watched(spent: dict[str, float]) -> Iterator[None]:
    """Add to `spent` the seconds that native code takes, by part."""

    def watch(kind: type, part: Callable[[Any], str]) -> Any:
        call = kind.__call__

        def timed(self: Any, *args: Any, **options: Any) -> None:
            start = time.perf_counter()
            call(self, *args, **options)
            spent[part(self)] += time.perf_counter() - start

        return patch.object(kind, "__call__", timed)

    with ExitStack() as stack:
        stack.enter_context(watch(NativeKernel, lambda kernel: PARTS[kernel.loop.is_gradient]))
        stack.enter_context(watch(Products, lambda _: "products"))
        yield


def quickest(call: Callable[[], object], seconds: float) -> dict[str, float]:
    """Return the parts of the quickest of the calls of so many seconds, in seconds."""
    found: dict[str, float] = {}
    spent = dict.fromkeys(PARTS, 0.0)
    with watched(spent):
        end = time.perf_counter() + seconds
        while not found or time.perf_counter() < end:
            spent.update(dict.fromkeys(PARTS, 0.0))
            start = time.perf_counter()
            call()
            total = time.perf_counter() - start
            if not found or total < found["total"]:
                found = {**spent, "rest": total - sum(spent.values()), "total": total}
    return found


def measure(name: str, shape: tuple[int, int, int], mode: str, seconds: float, speed: float) -> dict[str, float]:
    """Return the milliseconds of each part, of the arithmetic and of torch.nn, for one cell, shape and mode."""
    batch, steps, hidden = shape
    x = torch.randn(steps, batch, hidden)
    layer = Recurrent(cells.named(name)(hidden, hidden))
    call = MODES[mode](layer, x)
    call()
    passes = 3 if mode == "training" else 1
    found = {"arithmetic": 2e-9 * passes * steps * batch * products(layer) / speed, **quickest(call, seconds)}
    if name in TWINS:
        twin = MODES[mode](TWINS[name](hidden, hidden), x)
        found["torch.nn"] = alternate({"torch.nn": twin}, least=seconds / 7, statistic="minimum")["torch.nn"]
    found = {part: 1e3 * value for part, value in found.items()}
    return found | {"torch.nn / arithmetic": found.get("torch.nn", 0.0) / found["arithmetic"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", nargs="+", default=["lstm"])
    parser.add_argument("--modes", nargs="+", choices=[*MODES], default=[*MODES])
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of calls for each figure")
    asked = parser.parse_args()
    speed = max(gigaflops_of_products().values())
    print(f"{machine()}; the best large product: {speed:.0f} GF/s")
    for name in asked.cells:
        for mode in asked.modes:
            found = {shape: measure(name, shape, mode, asked.seconds, speed) for shape in SHAPES}
            heads = list(next(iter(found.values())))
            lines: list[list[object]] = [[", ".join(map(str, s)), *(f[h] for h in heads)] for s, f in found.items()]
            mean = geometric_mean(f["torch.nn / arithmetic"] for f in found.values()) if name in TWINS else 0.0
            lines.append(["geometric mean", *[""] * (len(heads) - 1), mean])
            print(f"\n### {name}, {mode}\n\n{table(['B, T, H', *heads], lines)}", flush=True)


if __name__ == "__main__":
    main()
