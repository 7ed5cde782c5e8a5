"""How time runs in one call, and how rows lie in memory."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Run:
    """How time runs in one call, and how its memory is laid out."""

    steps: int
    batch: int
    batch_major: bool
    lengths: Tensor | None
    reset: Tensor | None
    reverse: bool

    def rows(self, width: int, like: Tensor) -> Tensor:
        """Return memory for a row of every step and sequence, in the order of x."""
        if self.batch_major:
            return like.new_empty(self.batch, self.steps, width).transpose(0, 1)
        return like.new_empty(self.steps, self.batch, width)


def adjacent(tensor: Tensor) -> Tensor:
    """Return rows whose features lie side by side."""
    return tensor if tensor.stride(-1) == 1 or tensor.size(-1) == 1 else tensor.contiguous()
