"""Memory that the library takes without a number in it, filled with NaN: who reads what nobody wrote gives NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop.compiler.target import LoopTarget
from everloop.compiler.targets import llvm
from everloop.compiler.targets.llvm import pages

BYTE = 0xFF  # four or eight of them are NaN


def fill(memory: Tensor) -> Tensor:
    """Return `memory` with NaN in place of every number; bytes are filled so that the numbers in them are NaN."""
    with torch.inference_mode():  # memory made in that mode may be written in it only
        if memory.is_floating_point():
            memory.fill_(math.nan)
        elif memory.dtype == torch.uint8:
            memory.fill_(BYTE)
    return memory


def spread(patch: pytest.MonkeyPatch) -> None:
    """Poison every allocation, and at every call the scratch memory that kernels keep between calls."""

    def poisoned(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args, **kwargs: fill(allocate(*args, **kwargs))

    for name in ("fresh", "block"):
        patch.setattr(pages, name, poisoned(getattr(pages, name)))
    patch.setattr(LoopTarget, "empty_like", staticmethod(poisoned(LoopTarget.empty_like)))
    if not llvm.is_available():
        return
    from everloop.compiler.targets.llvm import memory, single

    patch.setattr(memory, "take", poisoned(memory.take))
    begin = single.Single.__init__

    def init(self: Any, *args: Any) -> None:
        begin(self, *args)
        vars(self)["_free"] = _Scratch()

    patch.setattr(single.Single, "__init__", init)


class _Scratch(list[Any]):
    """The scratch memory of single steps between calls: who takes a piece owns it, so that threads may."""

    def pop(self, *args: Any) -> Any:
        item = super().pop(*args)
        fill(item[-1])
        return item
