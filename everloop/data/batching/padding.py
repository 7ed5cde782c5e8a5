"""Padding: sequences of different lengths as one tensor; and the batches of one pass over a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from everloop.data.lazy import LazySequence

Batch = TypeVar("Batch")


def padded(sequences: Sequence[Any], value: float = 0) -> tuple[Tensor, Tensor]:
    """Return (tensor [T, B, ...], lengths [B]) of sequences of numbers or of rows; `value` fills what is missing."""
    rows = [torch.as_tensor(sequence) for sequence in sequences]
    lengths = torch.tensor([len(row) for row in rows])
    return torch.nn.utils.rnn.pad_sequence(rows, padding_value=value), lengths


def padded_numbers(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return (int64 [T, B], lengths [B]) of lists of whole numbers, 0 where one has ended; as `padded`, but at once."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    numbers = torch.zeros(int(lengths.max(initial=0)), len(rows), dtype=torch.int64)
    # of an array that is turned, the places are those of one row after another
    numbers.numpy().T[np.arange(len(numbers)) < lengths[:, None]] = np.fromiter(chain.from_iterable(rows), np.int64)
    return numbers, torch.from_numpy(lengths)


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
