"""A step of bfloat16 or float16 on a target that has neither: computed in float32, its products in bfloat16.

What goes into a product is rounded to bfloat16 where the processor multiplies that faster; sums, states
and element-wise mathematics are float32. float16 is only stored: its products are float32 too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from everloop import torch_private
from everloop.compiler.dtypes import arithmetic
from everloop.compiler.kernel import Kernel, StepKernel
from everloop.compiler.loop import Loop
from everloop.compiler.target import LoopTarget, compiling


class Reduced(LoopTarget):
    """target: what runs loops of float32; narrow: the dtype of what large products read, None for float32."""

    def __init__(self, target: LoopTarget, storage: torch.dtype) -> None:
        self.target, self.storage, self.name, self.matrices = target, storage, target.name, target.matrices
        self.narrow = storage if storage == torch.bfloat16 and torch_private.multiplies_bfloat16() else None

    def refusal(self, dtype: torch.dtype, device: torch.device) -> str:
        return self.target.refusal(arithmetic(dtype), device)

    def compile(self, loop: Loop) -> Kernel:
        return self.compile_narrow(loop)

    def compile_narrow(self, loop: Loop, halves: frozenset[str] = frozenset()) -> Kernel:
        return self.target.compile_narrow(loop, halves) if self.storage == torch.bfloat16 else self.target.compile(loop)

    def halves(self, loop: Loop, names: Collection[str]) -> frozenset[str]:
        return self.target.may_halve(loop, names) if self.storage == torch.bfloat16 else frozenset()

    def compile_step(self, loop: Loop) -> StepKernel:
        return self.target.compile_step_narrow(loop, self.storage)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.narrow is None:
            wide = arithmetic(self.storage)
            return self.target.linear(x.to(wide), self.target.converted(weight, wide), bias)
        return self.target.linear_narrow(x, weight, bias)

    def linear_low(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.target.linear_low(x, weight, bias)

    def over_rows(self, left: Tensor, *right: Tensor) -> Tensor:
        if self.narrow is None:
            wide = arithmetic(self.storage)
            return self.target.over_rows(left.to(wide), *(part.to(wide) for part in right))
        return self.target.over_rows_narrow(left, *right)

    def multiply(self, out: Tensor, a: Tensor, b: Tensor, bias: Tensor | None = None, *, add: bool = False) -> None:
        self.target.multiply(out, a, b, bias, add=add)

    def converted(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return self.target.converted(weight, dtype)

    def empty(self, shape: Sequence[int], like: Tensor) -> Tensor:
        return self.target.empty(shape, like)

    @property
    def description(self) -> str:
        """Which numbers are narrow, in a line for `explain()`."""
        storage, wide = (str(d).removeprefix("torch.") for d in (self.storage, arithmetic(self.storage)))
        rest = f"states, sums and element-wise mathematics in {wide}"
        if self.narrow is None:
            why = "" if self.storage == torch.float16 else ", because this processor multiplies them no faster"
            return f"{storage}: what is given and results; products in {wide}{why}, as {rest}"
        return f"{storage}: what is given, results, and products over whole sequences with their factors; {rest}"


@lru_cache
def reduced(inner: LoopTarget, storage: torch.dtype) -> Reduced:
    """Return the target that runs steps of this dtype on loops of `inner`; the same one each time."""
    return Reduced(inner, storage)


def running(
    dtype: torch.dtype, device: torch.device, named: LoopTarget | None = None, low: torch.dtype | None = None
) -> LoopTarget | str:
    """Return what runs steps of this dtype, itself or computed in a wider one, or why nothing does.

    named: the only target that is asked; low: the dtype that large products are to have, of autocast.
    """
    found = compiling(dtype, device, named)
    storage, wide = low or dtype, arithmetic(dtype)
    if isinstance(found, str) and wide != dtype:
        inner = compiling(wide, device, named)
        return found if isinstance(inner, str) else reduced(inner, storage)
    return found if isinstance(found, str) or low is None or arithmetic(low) != dtype else reduced(found, low)
