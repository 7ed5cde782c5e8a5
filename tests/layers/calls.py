"""One call of a cell, with all that it may be given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from everloop.cell import Cell
from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call, Results
from everloop.layers import dispatch


def run(
    cell: Cell,
    values: Bindings,
    x: Tensor,
    state: Sequence[Tensor],
    *,
    restart: Sequence[Tensor | None] | None = None,
    target: str | None = None,
    **time: Any,
) -> Results:
    """Return (output [T, B, n], final states); `time`: lengths, reset and reverse."""
    return dispatch.run(cell, Call.of(values, x, state, restart, **time), target)
