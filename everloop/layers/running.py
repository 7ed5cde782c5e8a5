"""How time runs in one call, and how rows lie in memory."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from everloop.compiler.compact import Compact, pays
from everloop.compiler.target import LoopTarget


@dataclass(frozen=True)
class Run:
    """How time runs in one call, and how its memory is laid out.

    compact: how the rows that only the library sees lie side by side, where so many steps are padding that it pays.
    """

    target: LoopTarget
    steps: int
    batch: int
    batch_major: bool
    lengths: Tensor | None
    reset: Tensor | None
    reverse: bool
    compact: Compact | None = None

    @classmethod
    def of(cls, target: LoopTarget, x: Tensor, lengths: Tensor | None, reset: Tensor | None, reverse: bool) -> Run:
        """Return how to run over x [T, B, I]."""
        (steps, batch), batch_major = x.shape[:2], x.stride(0) < x.stride(1)
        compact = None
        if lengths is not None:
            useful = int(lengths.sum())
            if useful == steps * batch:
                lengths = None
            elif pays(useful, steps * batch, x.shape[2]):
                compact = Compact(lengths, steps, batch_major=batch_major, reverse=reverse)
        return cls(target, steps, batch, batch_major, lengths, reset, reverse, compact)

    def padded(self, width: int, like: Tensor) -> Tensor:
        """Return memory for a row of every step and sequence, in the order of x."""
        if self.batch_major:
            return self.target.empty((self.batch, self.steps, width), like).transpose(0, 1)
        return self.target.empty((self.steps, self.batch, width), like)

    def rows(self, width: int, like: Tensor) -> Tensor:
        """Return memory for a row of every useful step and sequence."""
        return self.padded(width, like) if self.compact is None else self.target.empty((len(self.compact), width), like)

    def flat(self, rows: Tensor) -> Tensor:
        """Return [T, B, ...] with one axis for all steps and sequences, in their order in memory."""
        return (rows.transpose(0, 1) if self.batch_major else rows).flatten(0, 1)


def adjacent(tensor: Tensor) -> Tensor:
    """Return rows whose features lie side by side."""
    return tensor if tensor.stride(-1) == 1 or tensor.size(-1) == 1 else tensor.contiguous()
