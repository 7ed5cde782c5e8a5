"""SpecAugment: stretches of frames and groups of bands that a model has to do without."""

from __future__ import annotations

import torch
from torch import Tensor


def masked(frames: Tensor, masks: int, width: int, dim: int, generator: torch.Generator) -> Tensor:
    """Return frames [T, F] with 0, the mean of a normalised band, in `masks` stretches of dimension `dim`.

    Each has 0 to `width` frames (dim 0) or bands (dim 1), at most all of them; they may overlap.

    Park, Chan, Zhang, Chiu, Zoph, Cubuk and Le, "SpecAugment", Interspeech 2019.
    """
    size = frames.shape[dim]
    found = frames.clone()
    for _ in range(masks):
        length = int(torch.randint(min(width, size) + 1, (), generator=generator))
        start = int(torch.randint(size - length + 1, (), generator=generator))
        found.narrow(dim, start, length).zero_()
    return found
