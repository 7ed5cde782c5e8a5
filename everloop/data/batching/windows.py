"""Contiguous streams: a long sequence read in windows, so that a state can be carried from one to the next."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from everloop.data.batching.batch import Batch
from everloop.data.lazy import LazySequence
from everloop.errors import DataError, OptionError


@dataclass(frozen=True)
class Window(Batch):
    """One batch of a stream: the symbols read, and the symbol that follows each of them. x, y: int64 [T, B]."""

    x: Tensor
    y: Tensor

    @property
    def count(self) -> int:
        """The number of targets."""
        return self.y.numel()


class Windows(LazySequence[Window]):
    """`batch` contiguous streams of one sequence of numbers, read `length` symbols at a time.

    Stream b of window k+1 continues stream b of window k. A window is copied when it is read.

    Args:
        numbers: one axis of symbol numbers.
        batch: B, how many streams the sequence is cut into.
        length: T, the symbols of a window.
        drop_last: drop the last window if it is shorter; False keeps it, and starts with fewer streams if need be.
        where: what the numbers are, for messages.

    Raises:
        DataError: there are too few symbols.
    """

    def __init__(self, numbers: Tensor, batch: int, length: int, *, drop_last: bool, where: str = "the text") -> None:
        if batch < 1 or length < 1:
            raise OptionError(f"batch is {batch} and length is {length}; expected at least 1")
        usable = len(numbers) - 1
        needed = batch * length + 1 if drop_last else batch + 1
        if len(numbers) < needed:
            raise DataError(
                f"{where} has {len(numbers):,} symbols, too short for one window; {batch} streams of {length} symbols "
                f"need {needed:,}: give more text or a smaller batch or length"
            )
        size = usable // batch
        self.x = numbers[: size * batch].view(batch, size)
        self.y = numbers[1 : size * batch + 1].view(batch, size)
        self.length = length
        self.windows = size // length if drop_last else -(-size // length)

    def __len__(self) -> int:
        return self.windows

    def item(self, index: int) -> Window:
        span = slice(index * self.length, (index + 1) * self.length)
        x, y = (part[:, span].t().to(torch.int64).contiguous() for part in (self.x, self.y))
        return Window(x, y, first=index == 0)
