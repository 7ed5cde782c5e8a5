"""Teacher forcing with a schedule: what a decoder reads while it learns, the truth or its own guesses."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from everloop.layers.rows import drawn


def teacher_forcing_ratio(update: int, final: float, steps: int) -> float:
    """Return the fraction of true inputs at an update: it falls linearly from 1 to `final` over `steps` updates.

    Bengio, Vinyals, Jaitly and Shazeer, "Scheduled sampling for sequence prediction with recurrent neural networks",
    NeurIPS 2015.
    """
    done = 1.0 if steps == 0 else min(1.0, update / steps)
    return 1 - (1 - final) * done


def mix(inputs: Tensor, guesses: Tensor, ratio: float) -> Tensor:
    """Return inputs [T, B] of which about `1 - ratio` are replaced by the guess made for that place.

    The guesses [T, B] are made from the true inputs, all at once: guess t stands where input t + 1 stands. So a
    target is still one sweep of the recurrent layers, twice. The first input is the begin symbol and stays.

    Duckworth, Neelakantan, Goodrich, Kaiser and Bengio, "Parallel scheduled sampling", 2019.
    """
    keep = drawn(partial(torch.rand, device=inputs.device), tuple(inputs[1:].shape), 1) < ratio
    return torch.cat([inputs[:1], torch.where(keep, inputs[1:], guesses[:-1])])
