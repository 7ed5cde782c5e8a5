"""Recordings that are cut where they are quiet, as someone else would cut them."""

from __future__ import annotations

from torch import Tensor

PIECE = 0.01  # seconds whose power decides
LEAST = 0.12  # seconds that stay


def trimmed(samples: Tensor, decibels: float, rate: int) -> Tensor:
    """Return samples [n] from the first to the last part that is at most so much quieter than the loudest one.

    At least 0.12 seconds stay, if there are as many.

    Args:
        samples: the recording.
        decibels: how much quieter than its loudest 10 ms a part may be, and stay.
        rate: samples a second.
    """
    size, least = round(PIECE * rate), round(LEAST * rate)
    count = len(samples) // size
    if len(samples) <= max(least, size):
        return samples
    power = samples[: count * size].view(count, size).square().mean(1)
    loud = (power >= power.max() * 10 ** (-decibels / 10)).nonzero()[:, 0]
    start, stop = int(loud[0]) * size, (int(loud[-1]) + 1) * size
    missing = max(0, least - (stop - start))
    start = max(0, min(start - missing // 2, len(samples) - least))
    return samples[start : max(stop, start + least)]
