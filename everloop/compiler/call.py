"""What one call of a cell over a sequence is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from everloop.cell import Cell
from everloop.compiler.bindings import Bindings
from everloop.compiler.embedded import Embedded
from everloop.compiler.time_axis import TimeAxis

Results = tuple[Tensor, tuple[Tensor, ...]]  # the output [T, B, n] and the final states [B, n]


@dataclass(frozen=True)
class Call:
    """One sequence through one cell; everything has one dtype.

    values: what a step reads besides its input and its states; x: [T, B, I], with any strides.
    state: the rows [B, n] of each state before the first step; restart: the vector [n] that each returns to at a reset
    (None: zeros); time: how time runs.
    read: x as the layer read it, and the rows of a table that it is.
    """

    values: Bindings
    x: Tensor
    state: tuple[Tensor, ...]
    restart: tuple[Tensor | None, ...]
    time: TimeAxis
    read: tuple[Tensor, Embedded] | None = None

    @property
    def embedded(self) -> Embedded | None:
        """The rows of a table that x is; None where it is none, or has been replaced since."""
        return self.read[1] if self.read is not None and self.read[0] is self.x else None

    @classmethod
    def of(
        cls,
        values: Bindings,
        x: Tensor,
        state: Sequence[Tensor],
        restart: Sequence[Tensor | None] | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        reverse: bool = False,
    ) -> Call:
        """Return the call with a time axis of its own; `restart` is zeros where it is left out."""
        time = TimeAxis.of(x, lengths, reset, reverse=reverse)
        return cls(values, x, tuple(state), (None,) * len(state) if restart is None else tuple(restart), time)


Runner = Callable[[Cell, Call], Results]  # a way to run a cell
