"""Samples at another rate: a windowed sinc, evaluated where the new samples lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

ZEROS = 16  # zero crossings of the sinc on each side


@dataclass
class Upsampled:
    """Counts recordings of a lower rate than is asked for: their upper frequencies stay empty."""

    count: int = 0
    first: str = ""

    def saw(self, path: Path, rate: int, wanted: int) -> None:
        """Count a recording, if it is one of these."""
        if rate < wanted:
            self.count += 1
            self.first = self.first or f"{path} has {rate:,} samples a second, {wanted:,} are asked for"

    def notes(self) -> list[str]:
        """Return what a user should know: nothing, or one line."""
        many = f"{self.count:,} recordings of lower rates are upsampled, the first:"
        return [f"{many if self.count > 1 else 'upsampled:'} {self.first}"] if self.count else []


def resample(samples: Tensor, old: int, new: int) -> Tensor:
    """Return samples [n] at `old` a second as [ceil(n · new / old)] at `new` a second.

    Each is a sum of those around it, weighted by a sinc under a Hann window, which lets pass what is below half of the
    lower rate.

    Smith and Gossett, "A flexible sampling-rate conversion method", ICASSP 1984.
    """
    common = math.gcd(old, new)
    old, new = old // common, new // common
    if old == new:
        return samples
    count = -(-len(samples) * new // old)
    weights = _weights(old, new).to(samples)
    width = weights.shape[1]
    whole = F.pad(samples, (width // 2 - 1, width + old))
    found = samples.new_empty(-(-count // new), new)
    for phase in range(new):  # the new samples phase, phase + new, … lie equally far after an old one
        rows = whole[phase * old // new :].unfold(0, width, old)[: len(found)]
        found[:, phase] = rows @ weights[phase * old % new]
    return found.flatten()[:count]


def _weights(old: int, new: int) -> Tensor:
    """Return the weights [new, width] of the old samples around a new one, by how far it lies after one of them."""
    cutoff = min(1.0, new / old)
    half = math.ceil(ZEROS / cutoff)
    distance = torch.arange(1 - half, half + 1) - torch.arange(new, dtype=torch.float64)[:, None] / new
    window = torch.cos(math.pi / 2 * (distance / half).clamp(-1, 1)).square()
    weights = torch.sinc(distance * cutoff) * window
    return weights / weights.sum(1, keepdim=True)  # a constant stays one
