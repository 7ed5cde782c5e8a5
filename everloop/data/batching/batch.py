"""A batch: named tensors that move to a device together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tensors:
    """A dataclass whose tensors move to a device together."""

    def to(self, device: torch.device | str) -> Self:
        """Return the same on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor | Tensors)}
        return replace(self, **moved)


@dataclass(frozen=True)
class Batch(Tensors):
    """What a model is given at once.

    first: no state comes from the batch before. scale: what the learning rate of its update is multiplied by, where
    batches are of different lengths.
    """

    first: bool = field(default=True, kw_only=True)
    scale: float = field(default=1.0, kw_only=True)


def sequence_mask(lengths: Tensor, steps: int) -> Tensor:
    """Return where T steps of sequences of lengths [B] are valid, not padding: bool [T, B]."""
    return torch.arange(steps, device=lengths.device)[:, None] < lengths
