"""What operations of the table mean where PyTorch has no function that says just that: in terms of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from everloop.compiler.view import View
from everloop.own_gradient import custom_gradient


def comparing(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a comparison that gives numbers, 0 and 1, of its first tensor's dtype."""

    def compare(a: Any, b: Any) -> Tensor:
        like = a if isinstance(a, Tensor) else b
        return function(a, b).to(like.dtype if isinstance(like, Tensor) else torch.get_default_dtype())

    return compare


def of_tensors(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `function` of two values, at most one of them a number."""
    return lambda a, b: function(torch.as_tensor(a), torch.as_tensor(b))


floor_divided = of_tensors(partial(torch.div, rounding_mode="floor"))


def root(a: Tensor) -> Tensor:
    """Return the square root, whose gradient at 0 is 0."""
    is_zero = a == 0
    return torch.where(is_zero, 0, torch.sqrt(torch.where(is_zero, 1, a)))


def joined(*parts: Tensor) -> Tensor:
    """Concatenate along features; vectors join every row."""
    if len({p.shape[:-1] for p in parts}) == 1:
        return torch.cat(parts, -1)
    shape = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))  # type: ignore[no-untyped-call]
    return torch.cat([p.expand(*shape, p.shape[-1]) for p in parts], -1)


def summed(a: Tensor, width: int = 1, *numbers: int) -> Tensor:
    """Return sums over all features, or over those that a view takes for one feature."""
    if not numbers:
        return a.sum(-1, keepdim=True)
    index = torch.from_numpy(View.of(numbers).index.copy())
    return a.new_zeros(*a.shape[:-1], width).index_add(-1, index, a)


def largest(a: Tensor, width: int = 1, *numbers: int) -> Tensor:
    """Return the largest of all features, or of those that a view takes for one feature."""
    if not numbers:
        return a.amax(-1, keepdim=True)
    index = torch.from_numpy(View.of(numbers).index.copy())
    return a.new_full((*a.shape[:-1], width), -math.inf).scatter_reduce(-1, index.expand_as(a), a, "amax")


def _beside(value: Tensor, argument: Tensor, slope: Tensor) -> Tensor:
    return value.expand(torch.broadcast_shapes(value.shape, argument.shape, slope.shape))  # type: ignore[no-untyped-call]


with_slope = custom_gradient(_beside, lambda value, argument, slope, g: (g, g * slope, None))
