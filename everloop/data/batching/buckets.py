"""Batches by length: sequences of about the same length come together, so that padding stays below a bound."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import torch

from everloop.data.lazy import Array, LazySequence
from everloop.errors import OptionError

CHUNK = 64  # batches' worth of sequences that are sorted by length together


class BatchIndices(LazySequence[list[int]]):
    """The indices of the sequences of each batch; each sequence takes a few bytes.

    Args:
        order: the indices of the first batch, of the next one, and so on.
        starts, ends: where each batch begins and ends in it.
    """

    def __init__(self, order: Array, starts: Array, ends: Array) -> None:
        self.order, self.starts, self.ends = order, starts, ends

    def __len__(self) -> int:
        return len(self.ends)

    def item(self, index: int) -> list[int]:
        found: list[int] = self.order[self.starts[index] : self.ends[index]].tolist()
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BatchIndices) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def buckets(
    lengths: Sequence[int] | Array, batch: int, *, seed: int | None = None, padding: float = 0.1
) -> BatchIndices:
    """Return the indices of the sequences of each batch; they depend on the arguments alone.

    Args:
        lengths: steps of each sequence.
        batch: sequences in a batch, at most.
        seed: shuffles, so that only sequences near in a shuffled order and in length come together; None: all are
            sorted, the shortest first.
        padding: the largest fraction of padding in a batch; where lengths differ too much, batches are smaller.

    Raises:
        OptionError: batch or padding make no sense.
    """
    if batch < 1:
        raise OptionError(f"batch is {batch}; expected at least 1")
    if not 0 <= padding < 1:
        raise OptionError(f"padding is {padding}; expected a fraction below 1")
    steps = np.asarray(lengths, np.int64)
    generator = torch.Generator().manual_seed(seed or 0)
    order = np.arange(len(steps)) if seed is None else torch.randperm(len(steps), generator=generator).numpy()
    size = len(steps) if seed is None else CHUNK * batch
    ends = array("q")
    for start in range(0, len(steps), max(size, 1)):
        chunk = order[start : start + size]
        order[start : start + size] = chunk[steps[chunk].argsort(kind="stable")]
        _cut(steps[order[start : start + size]], start, ends, batch, padding)
    last = np.array(ends, np.int64)
    first = np.concatenate([[0], last])[:-1]
    if seed is not None:
        shuffled = torch.randperm(len(last), generator=generator).numpy()
        first, last = first[shuffled], last[shuffled]
    return BatchIndices(order, first, last)


def padding_fraction(groups: Sequence[Sequence[int]], lengths: Sequence[int] | Array) -> float:
    """Return the fraction of the steps of all batches that are padding."""
    steps = np.asarray(lengths, np.int64)
    sizes = [(int(found.sum()), len(found) * int(found.max())) for group in groups if len(found := steps[group])]
    used, made = (sum(size) for size in zip(*sizes, strict=True)) if sizes else (0, 0)
    return 1 - used / made if made else 0.0


def _cut(steps: Array, start: int, ends: array[int], batch: int, padding: float) -> None:
    """Append where each batch ends, of sequences sorted by length, the first of which is at `start`."""
    count = used = 0
    for i, length in enumerate(map(int, steps)):
        # the last one is the longest, so it sets the steps of the batch
        if count and (count == batch or used + length < (1 - padding) * ((count + 1) * length)):
            ends.append(start + i)
            count = used = 0
        count, used = count + 1, used + length
    if count:
        ends.append(start + len(steps))
