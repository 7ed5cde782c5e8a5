"""Memory that the library takes without a number in it, filled with NaN: who reads what nobody wrote gives NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop.compiler import pages
from everloop.compiler.targets import llvm

BYTE = 0xFF  # four or eight of them are NaN


def fill(memory: Tensor) -> Tensor:
    """Return `memory` with NaN in place of every number; bytes are filled so that the numbers in them are NaN."""
    with torch.no_grad():
        if memory.is_floating_point():
            memory.fill_(math.nan)
        elif memory.dtype == torch.uint8:
            memory.fill_(BYTE)
    return memory


def spread(patch: pytest.MonkeyPatch) -> None:
    """Poison every allocation, and at every call the scratch memory that kernels keep between calls."""

    def poisoned(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args, **kwargs: fill(allocate(*args, **kwargs))

    for name in ("fresh", "fresh_like", "block"):
        patch.setattr(pages, name, poisoned(getattr(pages, name)))
    if not llvm.is_available():
        return
    from everloop.compiler.targets.llvm import memory, single

    patch.setattr(memory, "take", poisoned(memory.take))
    step = single.Single.__call__

    def call(self: Any, *addresses: int) -> None:
        for item in self._free:
            fill(item[-1])
        step(self, *addresses)

    patch.setattr(single.Single, "__call__", call)
