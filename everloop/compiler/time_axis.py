"""How time runs in one call: the one description of steps, lengths, resets, direction and layout, from layer to kernel.

Behind the end of a sequence there is padding: neither its contents nor what is computed from them reaches a result.
The loop itself skips it. What is computed for all steps at once meets it, so it is made harmless here, and only here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everloop.compiler.compact import Compact, is_worth_gathering

Empty = Callable[[Sequence[int], Tensor], Tensor]  # a target's: memory of a shape, like a tensor, with anything in it


@dataclass(frozen=True, eq=False)
class TimeAxis:
    """Step s of a sequence is time s, or time length - 1 - s where `reverse`.

    steps, batch: T and B.
    lengths: int64 [B], the steps of each sequence, 0 to T; None: all have T.
    reset: bool [T, B], the steps before which the state starts anew, as met in this direction.
    boundaries: the same as the caller gave them, before a step in the order of time.
    batch_major: whether the steps of a sequence lie side by side in memory, as [B, T, n].
    compact: how the rows that exist lie side by side, where enough is padding to save time.
    segment: the steps of a segment, of which the backward pass computes what the forward pass does not keep; 0: all is
        kept; None: as the target thinks best.
    """

    steps: int
    batch: int
    lengths: Tensor | None = None
    reset: Tensor | None = None
    reverse: bool = False
    boundaries: Tensor | None = None
    batch_major: bool = False
    compact: Compact | None = None
    segment: int | None = None

    @classmethod
    def of(
        cls,
        x: Tensor,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        *,
        reverse: bool = False,
        segment: int | None = None,
    ) -> TimeAxis:
        """Return the time axis of x [T, B, n]."""
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # The gradient reads them again, whatever the caller makes of his own meanwhile.
            lengths, reset = (t if t is None else t.clone() for t in (lengths, reset))
        return cls(x.shape[0], x.shape[1], lengths, reset, reverse, reset, is_batch_major(x), segment=segment)

    def options(self) -> dict[str, Any]:
        """Return what the custom operator takes beside tensors, by name."""
        return {"lengths": self.lengths, "reset": self.reset, "reverse": self.reverse}

    def opposite(self) -> TimeAxis:
        """Return the same steps in the other direction."""
        return self._turned() if torch.compiler.is_compiling() else self._opposite

    @cached_property
    def _opposite(self) -> TimeAxis:
        return self._turned()

    def _turned(self) -> TimeAxis:
        reset = self.boundaries
        if reset is not None and not self.reverse:
            reset = torch.zeros_like(reset)  # a boundary before step t is met, from the end, before step t - 1
            reset[:-1] = self.boundaries[1:]  # type: ignore[index]
            if self.lengths is not None:
                reset &= torch.arange(1, self.steps + 1, device=reset.device)[:, None] < self.lengths
        return replace(self, reverse=not self.reverse, reset=reset, compact=None)

    @property
    def is_ragged(self) -> bool:
        """Whether some sequences may be shorter than others."""
        return self.lengths is not None

    def nonempty_sequences(self) -> Tensor:
        """Return the indices of the sequences that have a step."""
        assert self.lengths is not None
        return self.lengths.nonzero()[:, 0]

    @cached_property
    def num_nonempty(self) -> int:
        """How many sequences have a step."""
        if self.lengths is None or not self.steps:
            return self.batch if self.steps else 0
        return int(np.count_nonzero(self.lengths.numpy()))

    @cached_property
    def longest(self) -> int:
        """The number of steps of the longest sequence."""
        if self.lengths is None or not self.batch:
            return self.steps if self.batch else 0
        return int(self.lengths.max())

    @cached_property
    def rows(self) -> int:
        """How many rows are no padding."""
        return self.steps * self.batch if self.lengths is None else int(self.lengths.sum())

    @cached_property
    def ranks(self) -> Tensor:
        """The sequences by falling length, then these lengths, int64 [2 * B], as kernels read them."""
        assert self.lengths is not None
        assert (self.lengths.shape, self.lengths.dtype) == ((self.batch,), torch.int64), "lengths: int64 [B]"
        ends, order = torch.sort(self.lengths, descending=True)
        return torch.cat((order, ends))

    def whole(self) -> TimeAxis:
        """Return the axis with the rows of all steps in the order of time, none of them left out."""
        lengths = None if self.lengths is None or self.rows == self.steps * self.batch else self.lengths
        return replace(self, lengths=lengths, batch_major=False, compact=None)

    def part(self, start: int, stop: int) -> TimeAxis:
        """Return the axis of a few steps."""
        reset = None if self.reset is None else self.reset[start:stop]
        lengths = None if self.lengths is None else (self.lengths - start).clamp(0, stop - start)
        return replace(self, steps=stop - start, lengths=lengths, reset=reset, boundaries=reset, compact=None)

    def in_turns(self, turns: int) -> TimeAxis:
        """Return the axis on which each turn of a step is a step; resets come before the first."""
        lengths, reset = self.lengths, self.reset
        if reset is not None:
            of_first = torch.zeros(self.steps, turns, self.batch, dtype=torch.bool)
            of_first[:, -1 if self.reverse else 0] = reset
            reset = of_first.flatten(0, 1)
        return replace(
            self, steps=self.steps * turns, lengths=None if lengths is None else lengths * turns, reset=reset,
            boundaries=reset, compact=None,
        )  # fmt: skip

    def last_turns(self, rows: Tensor, turns: int) -> Tensor:
        """Return of rows [T * turns, B, n] those [T, B, n] of the last turn of each step."""
        return rows[::turns] if self.reverse else rows[turns - 1 :: turns]

    def for_kernel(self, x: Tensor) -> TimeAxis:
        """Return the axis as kernels that read x [T, B, n] take it: laid out as x, compact where that saves time."""
        batch_major = is_batch_major(x)
        if self.lengths is None:
            return self if batch_major == self.batch_major else replace(self, batch_major=batch_major)
        if self.rows == self.steps * self.batch:
            return replace(self, lengths=None, batch_major=batch_major)
        if not is_worth_gathering(self.rows, self.steps * self.batch, x.shape[2]):
            return self if batch_major == self.batch_major else replace(self, batch_major=batch_major)
        compact = self._compact if batch_major == self.batch_major else self._compacted(batch_major)
        return replace(self, batch_major=batch_major, compact=compact)

    @cached_property
    def _compact(self) -> Compact:
        return self._compacted(self.batch_major)

    def _compacted(self, batch_major: bool) -> Compact:
        assert self.lengths is not None
        return Compact(self.lengths, self.steps, batch_major=batch_major, reverse=self.reverse)

    @cached_property
    def valid_rows(self) -> Compact | None:
        """Which rows are no padding, whether or not they lie side by side; None: all are valid."""
        return None if self.lengths is None else self.compact or self._compact

    def select(self, sequences: Tensor, steps: int | None = None) -> TimeAxis:
        """Return the axis of a few sequences, and of the first steps only."""
        steps = self.steps if steps is None else steps
        lengths, reset, boundaries = self.lengths, self.reset, self.boundaries
        return replace(
            self, steps=steps, batch=len(sequences), compact=None,
            lengths=None if lengths is None else lengths.index_select(0, sequences).clamp(max=steps),
            reset=None if reset is None else reset[:steps].index_select(1, sequences),
            boundaries=None if boundaries is None else boundaries[:steps].index_select(1, sequences),
        )  # fmt: skip

    @property
    def ended(self) -> Tensor:
        """Bool [T, B]: where a sequence has ended."""
        assert self.lengths is not None
        return torch.arange(self.steps, device=self.lengths.device)[:, None] >= self.lengths

    def cleared(self, rows: Tensor) -> Tensor:
        """Return rows [T, B, n] with zeros where a sequence has ended, laid out in memory as they are."""
        return rows if self.lengths is None else rows.clone().masked_fill_(self.ended[..., None], 0)

    def filled(self, rows: Tensor) -> Tensor:
        """Return rows [T, B, n] with the last row of each sequence in the place of its padding; each has a step.

        Zeros there could make a quotient or a logarithm NaN, and zero times its gradient too. The gradient
        at padding is exactly zero.
        """
        times, sequences = self._padding
        return rows.index_put((times, sequences), rows.detach()[self._ends][sequences])

    def without_late_resets(self) -> TimeAxis:
        """Return the axis with no reset in the padding."""
        return self if self.reset is None else replace(self, reset=self.reset & ~self.ended)

    @cached_property
    def _padding(self) -> tuple[Tensor, Tensor]:
        """The time and the sequence of each row of padding."""
        times, sequences = self.ended.nonzero(as_tuple=True)
        return times, sequences

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor]:
        """The time of the last row of each sequence, and the sequences."""
        assert self.lengths is not None
        return (self.lengths - 1).clamp(min=0), torch.arange(self.batch)

    def last(self, rows: Tensor) -> Tensor:
        """Return of rows [T, B, n] those [B, n] of each sequence's last step, in this direction."""
        if self.reverse or self.lengths is None:
            return rows[0 if self.reverse else -1]
        return rows[self._ends]

    def or_start(self, rows: Tensor, start: Tensor) -> Tensor:
        """Return rows [B, n] in memory of their own, with those of `start` for the sequences that have no step."""
        return rows.clone() if self.lengths is None else torch.where((self.lengths > 0)[:, None], rows, start)

    def padded(self, width: int, like: Tensor, empty: Empty) -> Tensor:
        """Return memory [T, B, width] for a row of every step and sequence, laid out as x."""
        if self.batch_major:
            return empty((self.batch, self.steps, width), like).transpose(0, 1)
        return empty((self.steps, self.batch, width), like)

    def compacted(self, width: int, like: Tensor, empty: Empty) -> Tensor:
        """Return memory for a row of every step and sequence that exists."""
        if self.compact is None:
            return self.padded(width, like, empty)
        return empty((len(self.compact), width), like)

    def flat(self, rows: Tensor) -> Tensor:
        """Return [T, B, ...] with one axis for all steps and sequences, in their order in memory."""
        return (rows.transpose(0, 1) if self.batch_major else rows).flatten(0, 1)

    def starts(self) -> Tensor:
        """Return bool [T, B]: the steps before which no step of their sequence is read, the first and those reset."""
        marks = torch.zeros(self.steps, self.batch, dtype=torch.bool) if self.reset is None else self.reset.clone()
        if self.reverse and self.lengths is not None:
            nonempty = self.nonempty_sequences()
            marks[self.lengths[nonempty] - 1, nonempty] = True
        else:
            marks[-1 if self.reverse else 0] = True
        return marks


def is_batch_major(x: Tensor) -> bool:
    """Whether x [T, B, n] holds the steps of a sequence side by side."""
    return x.stride(0) < x.stride(1)
