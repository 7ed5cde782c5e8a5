"""Convolutions of a row with a fixed kernel: the product with the one matrix that does the same."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional

from everloop.compiler.contractions import Laid
from everloop.compiler.functions import add
from everloop.compiler.ir import Type
from everloop.compiler.locations import unsupported
from everloop.compiler.symbol import Symbol, known, symbol_of

LARGEST = 2**18  # numbers of the matrix; above it, most of which are 0, PyTorch's convolution is quicker


@dataclass(frozen=True)
class Convolution:
    """Makes of a kernel the matrix [new, old] by which the convolution takes features of this shape to others.

    options: stride, padding, dilation and groups.
    """

    name: str
    shape: tuple[int, ...]
    options: tuple[Any, ...]

    def __call__(self, kernel: torch.Tensor) -> torch.Tensor:
        numbers, places = torch.cat([kernel.new_zeros(1), kernel.flatten()]), _places(self, tuple(kernel.shape))
        return numbers.index_select(0, places.flatten().to(kernel.device)).view(places.shape)

    def of(self, x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        """Return the convolution of x [B, C, …]."""
        stride, padding, dilation, groups = self.options
        convolve = getattr(functional, self.name)
        return convolve(x, kernel, None, stride, padding, dilation, groups)  # type: ignore[no-any-return]


@lru_cache(16)
def _places(found: Convolution, kernel: tuple[int, ...]) -> torch.Tensor:
    """Return which number of the kernel, counted from 1, each of the matrix is; 0 where there is none."""
    with torch.inference_mode(False), torch.no_grad():
        width = math.prod(found.shape)
        ones = torch.eye(width, dtype=torch.float64, device="cpu").view(width, *found.shape)
        numbers = torch.arange(1, math.prod(kernel) + 1, dtype=torch.float64, device="cpu").view(kernel)
        return found.of(ones, numbers).flatten(1).T.round().int().contiguous()


def _convolved(name: str, a: Any, kernel: Any, bias: Any, *options: Any) -> Symbol:
    like = next(t for t in (a, kernel) if isinstance(t, Symbol))
    row, fixed = symbol_of(a, like), symbol_of(kernel, like)
    if not row.rows or fixed.rows or len(row.axes) != int(name[4]) + 1:
        raise unsupported(f"{name} other than of rows [B, C, …] with a parameter")
    found = Convolution(name, row.axes, tuple(tuple(o) if isinstance(o, list) else o for o in options))
    kind = fixed.value.type
    shape = found.of(torch.empty(1, *row.axes, device="meta"), torch.empty(kind.shape, device="meta")).shape[1:]
    width = math.prod(shape)
    if width * row.value.width > LARGEST:
        raise unsupported(
            f"{name} of {row.value.width} features to {width}: as one matrix, which compiled loops take it for, it has"
            f" more than {LARGEST} numbers, and PyTorch's own is quicker; eager runs it. Smaller states are compiled"
        )
    matrix = like.builder.make(
        "call", fixed.value, data=(found,), type=Type((width, row.value.width), dtype=kind.dtype)
    )
    result = row.like(like.builder.make("linear", row.value, matrix), tuple(shape))
    if bias is None:
        return result
    own = symbol_of(bias, like)
    laid, inside = Laid("a", "abc"[: len(shape)]), (shape[0], *[1] * (len(shape) - 1))
    return add(result, own.like(like.builder.make(
        "call", own.value, data=(laid,), type=Type(inside, dtype=own.value.type.dtype)
    )))  # fmt: skip


@known("conv1d")
def conv1d(
    a: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Symbol:
    return _convolved("conv1d", a, weight, bias, stride, padding, dilation, groups)


@known("conv2d")
def conv2d(
    a: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Symbol:
    return _convolved("conv2d", a, weight, bias, stride, padding, dilation, groups)
