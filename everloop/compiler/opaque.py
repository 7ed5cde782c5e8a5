"""Functions of PyTorch that the compiler does not look into, called with fixed values before the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from everloop.compiler.pytree import tree_map

HOLE = object()  # where an argument goes in a template


@dataclass(frozen=True, eq=False)
class OpaqueCall:
    """A PyTorch function with holes for its arguments, run before the loop.

    kinds: the types of these arguments, where they are not those of the loop, as which they come; the result is one.
    """

    name: str
    function: Callable[..., Any]
    template: Any
    kinds: tuple[torch.dtype | None, ...]
    part: int | None = None

    def __str__(self) -> str:
        return self.name if self.part is None else f"{self.name}[{self.part}]"

    def __call__(self, *values: Any) -> Any:
        remaining = (v if kind is None else v.to(kind) for v, kind in zip(values, self.kinds, strict=True))
        args, kwargs = tree_map(self.template, lambda leaf: next(remaining) if leaf is HOLE else leaf)
        result = self.function(*args, **kwargs)
        return result if self.part is None else result[self.part]


@lru_cache(16)
def widening(dtype: torch.dtype) -> OpaqueCall:
    """Return the one call that converts to a dtype what came out of a narrower one."""
    return OpaqueCall("to", torch.Tensor.to, ((HOLE, dtype), {}), (None,))
