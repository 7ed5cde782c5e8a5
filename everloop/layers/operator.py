"""One sequence through one cell: the place where a layer meets the compiler."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from everloop.cell import Cell
from everloop.compiler.targets import eager
from everloop.compiler.values import Values


def run(
    cell: Cell,
    values: Values,
    x: Tensor,
    state: Sequence[Tensor],
    *,
    restart: Sequence[Tensor | None] | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reverse: bool = False,
    target: str | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return (output [T, B, n], final states) of `cell` over x [T, B, I]."""
    return eager.run(cell, values, x, state, restart=restart, lengths=lengths, reset=reset, reverse=reverse)


def compiles(cell: Cell, x: Tensor) -> bool:
    """Whether a compiled target runs `cell` on inputs like x (device, dtype, autocast); `run` takes `eager` if not."""
    return False
