"""Contiguous streams: a long sequence read in windows, so that a state can be carried from one to the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from everloop.data.batching.batch import Batch
from everloop.data.lazy import LazySequence
from everloop.errors import DataError, OptionError

USUAL = 0.95  # how often a window that varies is about as long as said
SHORTEST = 5  # steps of a window that varies, at least


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
        varied: draws the length of each window, as `varied_lengths` does; the learning rate follows them.
        jitter: how much lengths that are drawn vary.
        drop_last: drop the last window if it is shorter; False keeps it, and starts with fewer streams if need be.
        where: what the numbers are, for messages.

    Raises:
        DataError: there are too few symbols.
    """

    def __init__(
        self,
        numbers: Tensor,
        batch: int,
        length: int,
        *,
        drop_last: bool,
        where: str = "the text",
        varied: torch.Generator | None = None,
        jitter: int = 0,
    ) -> None:
        if batch < 1 or length < 1:
            raise OptionError(f"batch is {batch} and length is {length}; expected at least 1")
        usable = len(numbers) - 1
        needed = batch * length + 1 if drop_last else batch + 1
        if len(numbers) < needed:
            raise DataError(
                f"{where} has {len(numbers):,} symbols, too short for one window; {batch} × {length} symbols "
                f"need {needed:,}: give more text or a smaller batch or length"
            )
        size = usable // batch
        self.x = numbers[: size * batch].view(batch, size)
        self.y = numbers[1 : size * batch + 1].view(batch, size)
        self.length = length
        self.ends = None if varied is None else np.cumsum(varied_lengths(size, length, jitter, varied))
        windows = size // length if drop_last else -(-size // length)
        self.windows = windows if self.ends is None else int(np.searchsorted(self.ends, size, "right"))

    def __len__(self) -> int:
        return self.windows

    def item(self, index: int) -> Window:
        begin, end, scale = index * self.length, (index + 1) * self.length, 1.0
        if self.ends is not None:
            begin, end = int(self.ends[index - 1]) if index else 0, int(self.ends[index])
            scale = (end - begin) / self.length
        x, y = (part[:, begin:end].t().to(torch.int64).contiguous() for part in (self.x, self.y))
        return Window(x, y, first=index == 0, scale=scale)


def varied_lengths(steps: int, length: int, jitter: int, generator: torch.Generator) -> list[int]:
    """Return lengths of windows that have at least so many steps in all, drawn around a length or, rarely, half of it.

    Merity, Keskar and Socher, "Regularizing and optimizing LSTM language models", ICLR 2018: half the length in one of
    twenty, and a standard deviation of `jitter`. No window is longer than the length and twice that.
    """
    least, most = min(SHORTEST, length), min(length + 2 * jitter, steps)
    count = steps // least + 1
    half = torch.rand(count, generator=generator) >= USUAL
    base = torch.where(half, length / 2, float(length))
    drawn = base + jitter * torch.randn(count, generator=generator)
    found: list[int] = drawn.to(torch.int64).clamp(min(least, most), most).tolist()
    return found
