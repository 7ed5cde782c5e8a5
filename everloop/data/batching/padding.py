"""Padding: sequences of different lengths as one tensor; and the batches of one pass over a dataset."""

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
    """The batches of one pass; a batch is made when it is read.

    Args:
        sampler: the indices of the items of each batch.
        make: returns the batch of the items with these indices.
    """

    def __init__(self, sampler: Sequence[list[int]], make: Callable[[list[int]], Batch]) -> None:
        self.sampler, self.make = sampler, make

    def __len__(self) -> int:
        return len(self.sampler)

    def item(self, index: int) -> Batch:
        return self.make(self.sampler[index])
