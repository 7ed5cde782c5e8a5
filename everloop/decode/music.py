"""Going on with a piece of music: the notes of one step after another, drawn from the probability of each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor

from everloop.data.readers.chorales import KEYS, PITCHES
from everloop.decode.sampling import check_choice, random_generator
from everloop.decode.writer import evaluating
from everloop.errors import DataError, OptionError
from everloop.models.tagger import Tagger


@dataclass(frozen=True)
class Draw:
    """How the keys of a step are drawn; the arguments are those of `compose`."""

    temperature: float = 1.0
    voices: int | None = None
    apart: int = 1

    def __post_init__(self) -> None:
        check_choice(self.temperature, None, None)
        if not 1 <= self.apart <= KEYS:
            raise OptionError(f"apart is {self.apart}; expected 1 to {KEYS} semitones")
        if self.voices is not None and not 1 <= self.voices <= 1 + (KEYS - 1) // self.apart:
            most = 1 + (KEYS - 1) // self.apart
            raise OptionError(f"voices is {self.voices}; expected 1 to {most}, of keys at least {self.apart} apart")


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
    apart: int = 1,
    seed: int | None = None,
) -> Iterator[Tensor]:
    """Return an iterator over the steps [88] with which a model goes on after a piece, 1 where a key sounds.

    The model gives each key a probability of its own, so by default each is drawn by itself. With `voices` or `apart`
    the draws are those in which exactly so many keys sound, and no two nearer to each other, at the same odds among
    each other (Chen, Dempster and Liu, "Weighted finite population sampling to maximize entropy", Biometrika 1994).

    Args:
        model: a tagger trained on piano rolls, which reads forward only.
        given: the piano roll [T, 88] that it continues.
        length: how many steps follow.
        temperature: divides the logits; below 1 bolder, above 1 more varied, 0 the most likely keys.
        voices: how many keys sound at each step.
        apart: semitones between keys that sound at once, at the least; 1: any.
        seed: the same seed gives the same music.

    Raises:
        DataError: nothing is given, or no piano roll.
        OptionError: the model is another one, or an argument is out of range.
    """
    how = Draw(temperature, voices, apart)
    if not plays(model) or model.config.bidirectional:
        raise OptionError("expected a tagger of piano rolls that reads forward only (--format chorales)")
    if given.dim() != 2 or not len(given) or given.shape[1] != KEYS:
        raise DataError(f"what is continued has the shape {[*given.shape]}; expected a step or more of {KEYS} keys")
    if length < 0:
        raise OptionError(f"length is {length}; expected 0 or more")
    return _steps(model, given, length, how, random_generator(seed))


def _steps(model: Tagger, given: Tensor, length: int, how: Draw, generator: torch.Generator) -> Iterator[Tensor]:
    weight, state = model.head.weight, None
    rows = given.to(weight)[:, None]
    for _ in range(length):
        with evaluating(model):
            scores, state = model(rows, torch.tensor([len(rows)], device=weight.device), state)
        # drawn on the CPU in float64, so that a seed gives the same music on every device
        drawn = drawn_keys(scores[-1, 0].cpu().double(), how, generator)
        rows = drawn.to(weight)[None, None]
        yield drawn


def drawn_keys(scores: Tensor, how: Draw, generator: torch.Generator) -> Tensor:
    """Return which keys sound, 0 or 1 [88], by their logits [88]: drawn from the sets that `how` allows."""
    chances = torch.rand(len(scores), generator=generator, dtype=torch.float64).tolist()
    if how.temperature:
        scores = scores / how.temperature
    sums = set_sums(scores, how)
    counted, left, key = how.voices is not None, how.voices or 0, 0
    drawn = torch.zeros(len(scores))
    while key < len(scores) and (left or not counted):
        # how the sets of keys from this one on weigh that have it, against those that do not
        taken = float(scores[key]) + sums[key + how.apart][left - counted]
        ahead = taken - sums[key + 1][left]
        if chances[key] * (1 + math.exp(min(-ahead, 700.0))) < 1 if how.temperature else ahead > 0:
            drawn[key] = 1
            left -= counted
            key += how.apart
        else:
            key += 1
    return drawn


def set_sums(scores: Tensor, how: Draw) -> list[list[float]]:
    """Return for each key log Σ exp Σ scores over the sets of keys from it on, of 0, 1, … `voices` keys, or of any.

    Without temperature it is the largest of the sums. Behind the last key there are `apart` rows for the empty set.
    """
    join = torch.logaddexp if how.temperature else torch.maximum
    sums = torch.full((len(scores) + how.apart, 1 + (how.voices or 0)), -torch.inf, dtype=torch.float64)
    sums[:, 0] = 0
    for key in range(len(scores) - 1, -1, -1):
        taken = scores[key] + sums[key + how.apart]
        if how.voices is None:
            sums[key] = join(sums[key + 1], taken)
        else:
            sums[key, 1:] = join(sums[key + 1, 1:], taken[:-1])
    found: list[list[float]] = sums.tolist()
    return found
