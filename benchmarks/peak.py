"""The recurrent part of the LSTM kernel as a share of the machine's own best product, forward and backward.

The machine's peak is the better of `torch.mm` and this library's own product, on large square matrices.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.timing import machine, table
from everloop import cells
from everloop.compiler.bindings import Bindings
from everloop.compiler.targets.llvm.gemm import matmul
from everloop.compiler.time_axis import TimeAxis
from everloop.layers.dispatch import program_of
from everloop.layers.dropout import values_of

SHAPES = [(8, 200, 128), (32, 100, 256), (64, 50, 512), (16, 400, 512)]


def best(call: Callable[[], object], repeats: int = 15) -> float:
    """Return the least seconds of a call."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def gigaflops_of_products(size: int = 1536) -> dict[str, float]:
    """Return the speed of a large square product by each library, in 10^9 operations a second."""
    a, b = torch.randn(2, size, size)
    calls = {"torch.mm": lambda: torch.mm(a, b), "ours": lambda: matmul(a, b)}
    return {name: 2e-9 * size**3 / best(call) for name, call in calls.items()}


def kernels(batch: int, steps: int, hidden: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return calls of the forward loop that saves and of the gradient loop, without anything around them."""
    cell = cells.LSTM(hidden, hidden)
    values: Bindings = values_of(cell, steps, batch)
    x = torch.randn(steps, batch, hidden)
    program = program_of(cell, values, x)
    assert not isinstance(program, str), program
    trained = program.training(frozenset(program.loop_inputs))
    state = {name: torch.zeros(batch, hidden) for name in program.states}
    with torch.no_grad():
        buffers = dict(program.prologue(values, x, batch_major=False))

    def filled(kernel: object) -> dict[str, torch.Tensor]:
        loop = kernel.loop  # type: ignore[attr-defined]
        made = {
            b.name: torch.zeros(steps, batch, b.width)
            for b in loop.buffers
            if b.kind in ("sequence", "emit", "previous")
        }
        return {**made, **{k: v for k, v in buffers.items() if k not in made}}

    ahead, back = filled(trained.forward), filled(trained.gradient)
    return (
        lambda: trained.forward(TimeAxis(steps, batch), ahead, first=state),
        lambda: trained.gradient(TimeAxis(steps, batch), back, first=state),
    )


def main() -> None:
    peaks = gigaflops_of_products()
    peak = max(peaks.values())
    print(machine())
    print(", ".join(f"{name} {speed:.0f} GF/s" for name, speed in peaks.items()) + "\n")
    lines: list[list[object]] = []
    for batch, steps, hidden in SHAPES:
        operations = 2e-9 * 4 * steps * batch * hidden * hidden
        shares = [operations / best(call) / peak for call in kernels(batch, steps, hidden)]
        lines.append([f"{batch}, {steps}, {hidden}", *(f"{share:.0%}" for share in shares)])
    print(table(["B, T, H", "forward", "backward"], lines))


if __name__ == "__main__":
    main()
