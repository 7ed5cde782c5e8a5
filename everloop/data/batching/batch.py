"""A batch: named tensors that move to a device together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tensors:
    """A dataclass whose tensors move to a device together."""

    def to(self, device: torch.device | str) -> Self:
        """Return the same on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor | Tensors)}
        return replace(self, **moved)

    def rows(self, start: int, stop: int) -> Self:
        """Return those of the sequences from `start` to before `stop`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Batch(Tensors):
    """What a model is given at once.

    first: no state comes from the batch before. scale: what the learning rate of its update is multiplied by, where
    batches are of different lengths.

    Its tensors are [B] or [T, B, ...]; `batch_first` names those that are [B, ...].
    """

    batch_first: ClassVar[tuple[str, ...]] = ()
    first: bool = field(default=True, kw_only=True)
    scale: float = field(default=1.0, kw_only=True)

    @property
    def size(self) -> int:
        """B, the number of sequences."""
        name, tensor = next((name, value) for name, value in vars(self).items() if isinstance(value, Tensor))
        return tensor.shape[self._axis(name, tensor)]

    def rows(self, start: int, stop: int) -> Self:
        """Return the sequences from `start` to before `stop`, padded as they are here."""
        taken: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                taken[name] = value.narrow(self._axis(name, value), start, stop - start).contiguous()
            elif isinstance(value, Tensors):
                taken[name] = value.rows(start, stop)
        return replace(self, **taken)

    def _axis(self, name: str, tensor: Tensor) -> int:
        return 0 if name in self.batch_first or tensor.dim() == 1 else 1


def sequence_mask(lengths: Tensor, steps: int) -> Tensor:
    """Return where T steps of sequences of lengths [B] are valid, not padding: bool [T, B]."""
    return torch.arange(steps, device=lengths.device)[:, None] < lengths
