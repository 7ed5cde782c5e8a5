"""Samples at another rate: a windowed sinc, evaluated where the new samples lie."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ZEROS = 16  # zero crossings of the sinc on each side
CHUNK = 65_536  # new samples that are made at once


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
    positions = torch.arange(-(-len(samples) * new // old)) * old  # in parts of 1 / new of an old sample
    weights = _weights(old, new).to(samples)
    width = weights.shape[1]
    around = torch.arange(width) + width - (width // 2 - 1)
    whole = F.pad(samples, (width, width))
    return torch.cat(
        [(whole[(at // new)[:, None] + around] * weights[at % new]).sum(1) for at in torch.split(positions, CHUNK)]
    )


def _weights(old: int, new: int) -> Tensor:
    """Return the weights [new, width] of the old samples around a new one, by how far it lies after one of them."""
    cutoff = min(1.0, new / old)
    half = math.ceil(ZEROS / cutoff)
    distance = torch.arange(1 - half, half + 1) - torch.arange(new, dtype=torch.float64)[:, None] / new
    window = torch.cos(math.pi / 2 * (distance / half).clamp(-1, 1)).square()
    weights = torch.sinc(distance * cutoff) * window
    return weights / weights.sum(1, keepdim=True)  # a constant stays one
