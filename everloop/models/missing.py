"""Numbers over time of which some are missing: filled with the last one that was seen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Filled:
    """Numbers without a gap. values: [T, B, n], the last seen where one is missing, 0 before the first; seen: bool
    [T, B, n]; since: steps since the last seen [T, B, n], 0 where one is seen."""

    values: Tensor
    seen: Tensor
    since: Tensor

    def mean(self) -> Tensor:
        """Return the mean of those seen over time [1, B, n]; 0 where none is."""
        return torch.where(self.seen, self.values, 0).sum(0, keepdim=True) / self.count()

    def deviation(self) -> Tensor:
        """Return the standard deviation of those seen over time [1, B, n]."""
        squares = torch.where(self.seen, self.values - self.mean(), 0).square()
        return (squares.sum(0, keepdim=True) / self.count()).sqrt()

    def count(self) -> Tensor:
        """Return how many are seen over time [1, B, n], at least 1."""
        return self.seen.sum(0, keepdim=True).clamp_min(1)


def filled(numbers: Tensor) -> Filled:
    """Return numbers [T, B, n] with NaN where one is missing as numbers without a gap."""
    seen = ~numbers.isnan()
    if bool(seen.all()):
        return Filled(numbers, seen, torch.zeros_like(numbers))
    steps = torch.arange(len(numbers), device=numbers.device)[:, None, None]
    last = torch.where(seen, steps, -1).cummax(0).values
    values = torch.where(last < 0, 0, numbers.nan_to_num().gather(0, last.clamp_min(0)))
    return Filled(values, seen, (steps - last).to(numbers.dtype))


class Decay(nn.Module):
    """The last number seen goes to the mean, 0, the longer ago it was.

    Che et al., "Recurrent neural networks for multivariate time series with missing values", 2018 (GRU-D): what is read
    is γ x, where γ = exp(-max(0, w t + b)) after t steps without a number.

    Args:
        size: n, the numbers of a step.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), 0.01))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, numbers: Filled) -> Tensor:
        """Return what is read [T, B, n]."""
        kept = torch.exp(-torch.relu(self.weight * numbers.since + self.bias))
        return torch.where(numbers.seen, numbers.values, kept * numbers.values)
