"""Compact rows: the steps that sequences of different lengths really have, side by side, without the padding."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Rows are gathered where at most this fraction of them is valid and at least so many numbers of x are padding. Measured
# on LSTMs of 16 to 512 units: gathering costs 0.05 ms a call in inference and 0.3 in training, and copies of the rows.
MAX_VALID = 0.8
MIN_PADDING = 1 << 15


class Compact:
    """Where the valid rows of [T, B, n] lie as [N, n].

    They are in order of steps, and a step holds its active sequences by falling length: the row of step s and the
    sequence of rank r is starts[s] + r. Reversed, step s of a sequence is time length - 1 - s.

    order: the sequence of each rank; starts: the first row of each step; table: order, lengths by rank, starts.
    place: of each row in [T, B, n] or, batch-major, in [B, T, n], flattened.
    num_nonempty: the number of sequences with a step.
    """

    def __init__(self, lengths: Tensor, steps: int, *, batch_major: bool, reverse: bool) -> None:
        # NumPy does this in two thirds of PyTorch's time, which a short call feels.
        self.shape = steps, batch = steps, len(lengths)
        self.batch_major = batch_major
        numbers = lengths.numpy()
        order = np.argsort(-numbers, kind="stable")
        ends, step = numbers[order], np.arange(steps)[:, None]
        self._is_valid = is_valid = step < ends
        counts = is_valid.sum(1)
        self.starts = counts.cumsum() - counts
        self.table = torch.from_numpy(np.concatenate((order, ends, self.starts)))
        self.order = self.table[:batch]
        time = ends - 1 - step if reverse else step
        self.place = torch.from_numpy((order * steps + time if batch_major else time * batch + order)[is_valid])
        self.num_nonempty = int(counts[0]) if steps else 0

    def __len__(self) -> int:
        return len(self.place)

    @cached_property
    def sequence(self) -> Tensor:
        """The sequence of each row."""
        return torch.from_numpy(np.broadcast_to(self.order.numpy(), self.shape)[self._is_valid])

    def before(self) -> Tensor:
        """Return for each row that of the step before; nothing of use for the rows of the first step."""
        earlier = np.concatenate((self.starts[:1], self.starts[:-1]))
        return torch.from_numpy((earlier[:, None] + np.arange(self.shape[1]))[self._is_valid])

    def gather(self, padded: Tensor) -> Tensor:
        """Return the valid rows of padded [T, B, n], as [N, n]."""
        if torch.is_grad_enabled() and padded.requires_grad:
            found: Tensor = _Gather.apply(padded, self)  # type: ignore[no-untyped-call]
            return found
        return self.at(padded, self.place)

    def at(self, padded: Tensor, places: Tensor) -> Tensor:
        """Return the rows of padded [T, B, n] at these places."""
        rows = padded.transpose(0, 1) if self.batch_major else padded
        outer, inner = rows.shape[:2]
        if rows.stride(0) == inner * rows.stride(1) or 1 in (outer, inner):
            return rows.flatten(0, 1).index_select(0, places)
        return rows[places // inner, places % inner]

    def pad(self, rows: Tensor) -> Tensor:
        """Return rows [N, n] as [T, B, n], with zeros where a sequence has ended."""
        steps, batch = self.shape
        flat = rows.new_zeros(steps * batch, rows.shape[-1]).index_copy_(0, self.place, rows)
        return flat.view(batch, steps, -1).transpose(0, 1) if self.batch_major else flat.view(steps, batch, -1)

    def spread(self, rows: Tensor) -> Tensor:
        """Return for each row of [N, n] that of its sequence in rows [B, n]."""
        return rows.index_select(0, self.sequence)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, padded: Tensor, compact: Compact) -> Tensor:
        ctx.compact = compact
        return compact.at(padded, compact.place)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        compact: Compact = ctx.compact
        return compact.pad(grads[0]), None


def is_worth_gathering(valid: int, rows: int, width: int) -> bool:
    """Return whether gathering the valid ones of so many rows of x saves time."""
    return valid <= MAX_VALID * rows and (rows - valid) * width >= MIN_PADDING
