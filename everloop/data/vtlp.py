"""Frequencies as a speaker with a longer or shorter vocal tract would have them."""

from __future__ import annotations

import torch
from torch import Tensor

BEND = 0.6  # of the highest frequency; above it the warp returns to the end of the axis


def warped(frequencies: Tensor, warp: float, top: float) -> Tensor:
    """Return frequencies 0 … `top` times `warp` in their lower part, and above so that `top` stays `top`.

    Jaitly and Hinton, "Vocal tract length perturbation (VTLP) improves speech recognition", ICML workshop 2013.
    """
    reached = BEND * top * min(warp, 1.0)
    bend = reached / warp
    upper = top - (top - reached) / (top - bend) * (top - frequencies)
    return torch.where(frequencies <= bend, frequencies * warp, upper)
