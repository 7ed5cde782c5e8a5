"""Sequences of different lengths side by side, and the batches of one pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from everloop.data.lazy import LazySequence

Batch = TypeVar("Batch")


def padded(sequences: Sequence[Any], value: float = 0) -> tuple[Tensor, Tensor]:
    """Return (tensor [T, B, ...], lengths [B]) of sequences of numbers or of rows; `value` fills what is missing."""
    rows = [torch.as_tensor(sequence) for sequence in sequences]
    lengths = torch.tensor([len(row) for row in rows])
    return torch.nn.utils.rnn.pad_sequence(rows, padding_value=value), lengths


class Batches(LazySequence[Batch], Generic[Batch]):
    """The batches of one pass; a batch is made when it is asked for.

    Args:
        groups: the numbers of the sequences of each batch.
        make: returns the batch of these sequences.
    """

    def __init__(self, groups: Sequence[list[int]], make: Callable[[list[int]], Batch]) -> None:
        self.groups, self.make = groups, make

    def __len__(self) -> int:
        return len(self.groups)

    def item(self, index: int) -> Batch:
        return self.make(self.groups[index])
