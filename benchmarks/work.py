"""What a call has to do at least, as the time that this takes at the machine's own speed.

Arithmetic: the multiplications and additions of its products, of rows with matrices and over whole sequences, and of
its element-wise lines, at the speed of the machine's best large product. Memory: its states read and written at every
step, at the speed of a loop that does only that, and its sequences read or written once, at that of a copy as large.
No program that makes the same sequences takes less time than the larger of the two. What PyTorch computes is not
counted: products too small for the kernel of this library, and what no kernel takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.peak import best, gigaflops_of_products
from everloop.compiler import target as targets
from everloop.compiler.gradient import sequence_of
from everloop.compiler.loop import Buffer, Instruction, Loop, Map
from everloop.compiler.targets.llvm.launch import NativeKernel
from everloop.compiler.targets.llvm.matrices import Products
from everloop.compiler.time_axis import TimeAxis

ADDED = ("add", "sub", "mul", "sum", "accumulate")  # lines that are one multiplication or addition a feature


@dataclass
class Work:
    """operations: multiplications and additions; states: (bytes of all rows, how often they are read and written);
    sequences: bytes of those of each loop.
    """

    operations: int = 0
    states: list[tuple[int, int]] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)

    def add_loop(self, loop: Loop, time: TimeAxis) -> None:
        """Count one run of a loop."""
        rows, widths = time.steps * time.batch, {b.name: b.width for b in loop.buffers}
        size = loop.dtype.itemsize if loop.dtype else 4
        for stage in loop.stages:
            if isinstance(stage, Map):
                self.operations += rows * stage.width * sum(i.op in ADDED for i in stage.body)
            else:
                self.operations += 2 * rows * stage.matrix.height * stage.matrix.width
        self.states.append((size * time.batch * sum(s.width for s in loop.states), time.steps))
        moved = [b for b in loop.buffers if b.kind in ("sequence", "emit", "previous")]
        moved = [b for b in moved if b.kind != "previous" or sequence_of(b.of) not in widths]  # it is the same memory
        self.sequences.append(size * rows * sum(b.width for b in moved))

    def arithmetic(self) -> float:
        """Return the seconds that the operations take."""
        return 1e-9 * self.operations / gigaflops()

    def memory(self) -> float:
        """Return the seconds that reading and writing takes."""
        swept = sum(2 * size * steps / sweep_speed(size.bit_length()) for size, steps in self.states)
        return swept + sum(size / copy_speed(size.bit_length()) for size in self.sequences)


@contextmanager
def counted(work: Work) -> Iterator[None]:
    """Add to `work` what native code does."""

    def watch(kind: type, count: Callable[..., None]) -> Any:
        call = kind.__call__

        def counting(self: Any, *args: Any, **options: Any) -> None:
            count(self, *args)
            call(self, *args, **options)

        return patch.object(kind, "__call__", counting)

    def product(_: Products, out: Tensor, a: Tensor, b: Tensor, *rest: Tensor) -> None:
        work.operations += 2 * a.shape[0] * a.shape[1] * b.shape[1]

    with ExitStack() as stack:
        stack.enter_context(watch(NativeKernel, lambda kernel, time, *_: work.add_loop(kernel.loop, time)))
        stack.enter_context(watch(Products, product))
        yield


def work_of(call: Callable[[], object]) -> Work:
    """Return what one call does."""
    found = Work()
    with counted(found):
        call()
    return found


@lru_cache(maxsize=1)
def gigaflops() -> float:
    """Return the speed of the best large product, in 10^9 operations a second."""
    return max(gigaflops_of_products().values())


@lru_cache(maxsize=64)
def sweep_speed(bits: int, batch: int = 32, steps: int = 256) -> float:
    """Return the bytes a second of a loop that reads and writes states in place, of 2^(bits - 1) bytes in all rows."""
    width = max(64, (1 << bits - 1) // (4 * batch))
    state = Buffer("s", "state", width)
    body = (
        Instruction("load", (), state),
        Instruction("constant", number=0.5),
        Instruction("mul", (0, 1)),
        Instruction("store", (2,), state),
    )
    kernel = targets.find("llvm").compile(Loop((Map(width, body),), (state,)))  # type: ignore[union-attr]
    return 8 * width * batch * steps / best(lambda: kernel(TimeAxis(steps, batch), {}))


@lru_cache(maxsize=64)
def copy_speed(bits: int) -> float:
    """Return the bytes a second, read and written, of a copy of 2^(bits - 1) bytes in all."""
    source, to = torch.zeros(2, max(1 << bits - 4, 1024)).unbind()
    return 8 * len(source) / best(lambda: to.copy_(source))
