"""Noise over a recording."""

from __future__ import annotations

import torch
from torch import Tensor


def with_noise(samples: Tensor, snr: float, generator: torch.Generator) -> Tensor:
    """Return samples [n] with white noise whose power is `snr` decibels below theirs."""
    noise = torch.randn(samples.shape, generator=generator, dtype=samples.dtype)
    return samples + noise * samples.square().mean().sqrt() * 10 ** (-snr / 20)
