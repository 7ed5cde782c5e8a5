"""The target `llvm`: any loop in one of the formats of its table as native code of the processor."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from everloop.compiler.loop import Loop
from everloop.compiler.target import LoopTarget
from everloop.compiler.targets import llvm
from everloop.compiler.targets.llvm import gemm, kept, narrow_gemm, narrow_single, pages, single
from everloop.compiler.targets.llvm.formats import FORMATS, NAMES
from everloop.compiler.targets.llvm.launch import NativeKernel
from everloop.compiler.targets.llvm.layout import may_halve


class LLVM(LoopTarget):
    """Native code by LLVM, for the whole sequence and for single steps. Kernels are specialised on no size."""

    name = "llvm"
    matrices = (torch.bfloat16, torch.float16)

    def refusal(self, dtype: torch.dtype, device: torch.device) -> str:
        if device.type != "cpu" or dtype not in FORMATS:
            return f"the target llvm runs {NAMES} on a processor; got {dtype} on {device.type}"
        return "" if llvm.is_available() else "llvmlite is not installed, so there is no target llvm"

    def compile(self, loop: Loop) -> NativeKernel:
        return llvm.compile(loop)

    def compile_narrow(self, loop: Loop, halves: frozenset[str] = frozenset()) -> NativeKernel:
        return llvm.compile(loop, is_narrow=True, halves=halves)

    def may_halve(self, loop: Loop, names: Collection[str]) -> frozenset[str]:
        return may_halve(loop, names)

    def compile_step(self, loop: Loop) -> single.SingleKernel:
        return single.compile(loop)

    def compile_step_narrow(self, loop: Loop, storage: torch.dtype) -> narrow_single.NarrowStepKernel:
        return narrow_single.compile(loop, storage=storage)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return gemm.linear(x, weight, bias)

    def over_rows(self, left: Tensor, *right: Tensor) -> Tensor:
        return gemm.over_rows(left, *right)

    def linear_narrow(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return narrow_gemm.linear(x, weight, bias)

    def linear_low(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return narrow_gemm.linear_low(x, weight, bias)

    def over_rows_narrow(self, left: Tensor, *right: Tensor) -> Tensor:
        return narrow_gemm.over_rows(left, *right)

    def multiply(self, out: Tensor, a: Tensor, b: Tensor, bias: Tensor | None = None, *, add: bool = False) -> None:
        if not gemm.multiply(out, a, b, bias, add):
            super().multiply(out, a, b, bias, add=add)

    def converted(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return kept.converted(weight, dtype)

    def empty(self, shape: Sequence[int], like: Tensor) -> Tensor:
        return pages.fresh(shape, like.dtype)


TARGET = LLVM()
