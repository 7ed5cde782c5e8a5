"""Batches by length: which sequences come together, so that the share of padding stays below a bound."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from everloop.errors import OptionError

CHUNK = 64  # batches' worth of sequences that are sorted by length together


def buckets(lengths: Sequence[int], batch: int, *, seed: int | None = None, padding: float = 0.1) -> list[list[int]]:
    """Return the numbers of the sequences of each batch. It depends on the arguments alone.

    Args:
        lengths: steps of each sequence.
        batch: sequences in a batch, at most.
        seed: shuffles, so that only sequences near in a shuffled order and in length come together; None: all are
            sorted, the shortest first.
        padding: the largest share of padding in a batch; where lengths differ too much, batches are smaller.

    Raises:
        OptionError: batch or padding make no sense.
    """
    if batch < 1:
        raise OptionError(f"batch is {batch}; expected at least 1")
    if not 0 <= padding < 1:
        raise OptionError(f"padding is {padding}; expected a share below 1")
    count = len(lengths)
    if seed is None:
        return _cut(sorted(range(count), key=lambda i: lengths[i]), lengths, batch, padding)
    chance = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=chance).tolist()
    found = []
    for start in range(0, count, CHUNK * batch):
        chunk = sorted(order[start : start + CHUNK * batch], key=lambda i: lengths[i])
        found += _cut(chunk, lengths, batch, padding)
    return [found[i] for i in torch.randperm(len(found), generator=chance).tolist()]


def padding_share(groups: Sequence[Sequence[int]], lengths: Sequence[int]) -> float:
    """Return the share of the steps of all batches that are padding."""
    used = sum(lengths[i] for group in groups for i in group)
    made = sum(len(group) * max(lengths[i] for i in group) for group in groups)
    return 1 - used / made if made else 0.0


def _cut(order: list[int], lengths: Sequence[int], batch: int, padding: float) -> list[list[int]]:
    """Return the sequences, sorted by length, as batches within the bound."""
    found: list[list[int]] = []
    used = 0
    for i in order:
        # the last one is the longest, so it sets the steps of the batch
        if found and len(found[-1]) < batch:
            together = (len(found[-1]) + 1) * lengths[i]
            if used + lengths[i] >= (1 - padding) * together:
                found[-1].append(i)
                used += lengths[i]
                continue
        found.append([i])
        used = lengths[i]
    return found
