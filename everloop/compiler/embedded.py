"""Sequences of symbols: rows of a table by number, so that what depends on a symbol alone is computed once."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from everloop.compiler.time_axis import Empty
from everloop.errors import ShapeError

FEWER = 2  # steps for each symbol from which looking up what was computed once is quicker
FEW = 256  # steps that are not worth asking which symbols are the same
WIDENED = 1 << 21  # numbers of bfloat16 that are widened at once: so many stay in a cache


class Embedded(NamedTuple):
    """What a layer reads where each step is a symbol: the rows of a table by number, as an embedding gives them.

    A layer multiplies each symbol's row once where symbols are fewer than steps, and their gradients are added up by
    symbol before they are multiplied; its results are those of `rows()`.

    Args:
        numbers: of the symbols, in the form of x without its features: [T, B].
        table: a row for each symbol [V, I].
        padding: the number of a symbol whose row has no gradient, as `padding_idx` of torch.nn.Embedding.
    """

    numbers: Tensor
    table: Tensor
    padding: int | None = None

    def rows(self) -> Tensor:
        """Return x: the row of each symbol.

        Raises:
            ShapeError: numbers are no tensor of integers, or the table has not two axes.
        """
        for name, given, expected in (("numbers", self.numbers, "integers"), ("table", self.table, "rows [V, I]")):
            if not isinstance(given, Tensor):
                raise ShapeError(f"Embedded: {name} is {type(given).__name__}; expected a tensor of {expected}")
        if self.numbers.dtype not in (torch.int32, torch.int64):
            raise ShapeError(f"Embedded: numbers are {self.numbers.dtype}; expected int64 or int32")
        if self.table.dim() != 2:
            raise ShapeError(f"Embedded: table has {self.table.dim()} axes; expected 2, a row for each symbol [V, I]")
        return F.embedding(self.numbers, self.table, self.padding)

    def once(self, numbers: Tensor) -> LookedUp | None:
        """Return the row of each symbol among some numbers; None where they are hardly fewer than the numbers.

        Other symbols are left out: nothing that is computed of them, were it NaN, may reach a gradient.
        """
        if numbers.numel() < FEW:
            return None
        is_there = torch.zeros(len(self.table), dtype=torch.bool, device=numbers.device)
        is_there[numbers.flatten()] = True
        symbols = is_there.nonzero()[:, 0]
        if FEWER * len(symbols) > numbers.numel():
            return None
        return LookedUp(F.embedding(symbols, self.table, self.padding), (is_there.cumsum(0) - 1)[numbers])


def rows_of(x: Tensor | Embedded) -> Tensor:
    """Return x, of symbols their rows."""
    return x.rows() if isinstance(x, Embedded) else x


class LookedUp(NamedTuple):
    """table: what was computed of each symbol [U, n]; numbers: which of these rows belongs where, [...]."""

    table: Tensor
    numbers: Tensor

    def rows(self, empty: Empty) -> Tensor:
        """Return the rows where they belong, [..., n], in memory of their own."""
        flat = self.table.flatten(1)
        found: Tensor = _LookUp.apply(flat, self.numbers, empty)  # type: ignore[no-untyped-call]
        return found.view(*self.numbers.shape, *self.table.shape[1:])


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, numbers: Tensor, empty: Empty) -> Tensor:
        ctx.save_for_backward(numbers)
        ctx.size = len(table)
        out = empty((numbers.numel(), table.shape[1]), table)
        return torch.index_select(table, 0, numbers.flatten(), out=out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (numbers,) = ctx.saved_tensors
        (slopes,), each = grads, numbers.flatten()
        if slopes.dtype != torch.bfloat16:
            # adds in the order of the rows, whatever the number of threads, as index_add_ does
            return torch.ops.aten.embedding_dense_backward(slopes, each, ctx.size, -1, False), None, None
        sums = slopes.new_zeros(ctx.size, slopes.shape[1], dtype=torch.float32)
        count = max(1, slopes.numel() // WIDENED)
        for rows, some in zip(slopes.chunk(count), each.chunk(count), strict=True):
            sums.index_add_(0, some, rows.float())
        return sums, None, None
