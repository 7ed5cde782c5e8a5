"""What one call of a cell over a sequence is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from everloop.compiler.bindings import Bindings


@dataclass(frozen=True)
class Call:
    """One sequence through one cell; everything has one dtype.

    values: what a step reads besides its input and its states; x: [T, B, I], with any strides.
    state: the rows [B, n] of each state before the first step; restart: the vector [n] that each returns to at a reset
    (None: zeros).
    lengths: whole numbers [B] from 0 to T; reset: bool [T, B]; reverse: step s of a sequence is time length - 1 - s.
    """

    values: Bindings
    x: Tensor
    state: tuple[Tensor, ...]
    restart: tuple[Tensor | None, ...]
    lengths: Tensor | None = None
    reset: Tensor | None = None
    reverse: bool = False

    def options(self) -> dict[str, Any]:
        """Return what is not the same in every call, by the names of `dispatch.run`."""
        return {"restart": self.restart, "lengths": self.lengths, "reset": self.reset, "reverse": self.reverse}
