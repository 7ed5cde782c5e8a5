"""Going on with a piece of music: the notes of one step after another, drawn from the probability of each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeGuard

import torch
from torch import Tensor

from everloop.data.readers.chorales import KEYS, PITCHES
from everloop.decode.sampling import check_choice, random_generator
from everloop.decode.writer import evaluating
from everloop.errors import DataError, OptionError
from everloop.models.tagger import Tagger


def plays(model: object) -> TypeGuard[Tagger]:
    """Return whether a model says which keys of a piano sound next."""
    return isinstance(model, Tagger) and model.features == KEYS and model.labels.symbols == PITCHES


def compose(
    model: Tagger,
    given: Tensor,
    *,
    length: int,
    temperature: float = 1.0,
    voices: int | None = None,
    seed: int | None = None,
) -> Iterator[Tensor]:
    """Return an iterator over the steps [88] with which a model goes on after a piece, 1 where a key sounds.

    The model gives each key a probability of its own, so by default each is drawn by itself. With `voices` the draws
    are those in which exactly so many keys sound, at the same odds among each other (Chen, Dempster and Liu, "Weighted
    finite population sampling to maximize entropy", Biometrika 1994).

    Args:
        model: a tagger trained on piano rolls, which reads forward only.
        given: the piano roll [T, 88] that it continues.
        length: how many steps follow.
        temperature: divides the logits; below 1 bolder, above 1 more varied, 0 what is more likely than not, or the
            most likely keys.
        voices: how many keys sound at each step.
        seed: the same seed gives the same music.

    Raises:
        DataError: nothing is given, or no piano roll.
        OptionError: the model is another one, or an argument is out of range.
    """
    check_choice(temperature, None, None)
    if not plays(model) or model.config.bidirectional:
        raise OptionError("expected a tagger of piano rolls that reads forward only (--format chorales)")
    if given.dim() != 2 or not len(given) or given.shape[1] != KEYS:
        raise DataError(f"what is continued has the shape {[*given.shape]}; expected a step or more of {KEYS} keys")
    if voices is not None and not 1 <= voices <= KEYS:
        raise OptionError(f"voices is {voices}; expected 1 to {KEYS}")
    if length < 0:
        raise OptionError(f"length is {length}; expected 0 or more")
    return _steps(model, given, length, temperature, voices, random_generator(seed))


def _steps(
    model: Tagger, given: Tensor, length: int, temperature: float, voices: int | None, generator: torch.Generator
) -> Iterator[Tensor]:
    weight, state = model.head.weight, None
    rows = given.to(weight)[:, None]
    for _ in range(length):
        with evaluating(model):
            scores, state = model(rows, torch.tensor([len(rows)], device=weight.device), state)
        # drawn on the CPU in float64, so that a seed gives the same music on every device
        drawn = drawn_keys(scores[-1, 0].cpu().double(), temperature, voices, generator)
        rows = drawn.to(weight)[None, None]
        yield drawn


def drawn_keys(scores: Tensor, temperature: float, voices: int | None, generator: torch.Generator) -> Tensor:
    """Return which keys sound, 0 or 1 [88]. scores: their logits [88]; the other arguments are those of `compose`."""
    if temperature == 0:
        if voices is None:
            return (scores > 0).float()
        return torch.zeros(len(scores)).scatter_(0, scores.topk(voices).indices, 1.0)
    chance = torch.rand(len(scores), generator=generator, dtype=torch.float64)
    scores = scores / temperature
    if voices is None:
        return (chance < scores.sigmoid()).float()
    left, drawn = voices, torch.zeros(len(scores))
    sums = subset_sums(scores, voices)
    for key, u in enumerate(chance.tolist()):
        # of the ways to choose the rest from this key on, the share that has this key
        if left and u < math.exp(min(0.0, float(scores[key]) + sums[key + 1][left - 1] - sums[key][left])):
            drawn[key] = 1
            left -= 1
    return drawn


def subset_sums(scores: Tensor, most: int) -> list[list[float]]:
    """Return, for each key, log Σ exp Σ scores over all sets of 0, 1, … `most` keys from it on."""
    sums = torch.full((len(scores) + 1, most + 1), -torch.inf, dtype=torch.float64)
    sums[:, 0] = 0
    for key in range(len(scores) - 1, -1, -1):
        sums[key, 1:] = torch.logaddexp(sums[key + 1, 1:], scores[key] + sums[key + 1, :-1])
    found: list[list[float]] = sums.tolist()
    return found
