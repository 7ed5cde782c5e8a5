"""The learning-rate range test: a short training whose learning rate rises, and what its loss says."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from everloop.errors import OptionError, TrainingError
from everloop.models.model import Model
from everloop.train.config import TrainConfig
from everloop.train.evaluate import Data
from everloop.train.events import Event, Stepped
from everloop.train.loop import train

MEMORY = 0.9  # of the running mean of the losses
WORSE = 0.5  # of what training has gained: when the loss has risen by that from its lowest, the test ends
HIGHEST = {"adamw": 1.0, "adam": 1.0, "rmsprop": 1.0, "sgd": 100.0}


@dataclass(frozen=True)
class RangeTest:
    """Learning rates that were tried, one a step, and the running mean of the loss after each."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def lowest(self) -> float:
        """The learning rate at which the loss was lowest."""
        return self.rates[min(range(len(self.losses)), key=self.losses.__getitem__)]

    @property
    def steepest(self) -> float:
        """The learning rate at which the loss fell fastest, per factor of the rate."""
        falls = [after - before for before, after in zip(self.losses, self.losses[1:], strict=False)]
        return self.rates[min(range(len(falls)), key=falls.__getitem__) + 1]

    @property
    def suggestion(self) -> float:
        """The learning rate at which the loss fell fastest, to one digit."""
        return float(f"{self.steepest:.0e}")

    def __str__(self) -> str:
        return (
            f"the loss falls fastest at a learning rate of {self.steepest:.1e}, a good highest one: "
            f"--lr {self.suggestion:g} (it is lowest at {self.lowest:.1e}, where training is about to fail)"
        )


class _Trained:
    """Data without what validates."""

    splits = ("train",)

    def __init__(self, data: Data) -> None:
        self.fingerprint, self.epoch = data.fingerprint, data.epoch


class _EnoughError(Exception):
    """The loss has risen so far that higher learning rates say nothing more."""


def find_lr(
    model: Model,
    data: Data,
    config: TrainConfig | None = None,
    *,
    lowest: float = 1e-6,
    highest: float | None = None,
    tries: int = 100,
) -> RangeTest:
    """Return what the loss of a copy of a model does while its learning rate rises, by the same factor each step.

    Smith, "Cyclical learning rates for training neural networks", WACV 2017.

    Args:
        model, data, config: as of `train`; the model stays as it is.
        lowest, highest: between which learning rates; the highest is 1 by default, with SGD 100.
        tries: steps, at most: the test ends once the loss has risen again by half of what it had gained.

    Raises:
        OptionError: the rates or tries make no sense, or the loss is not finite at the lowest rate already.
    """
    config = config or TrainConfig()
    highest = HIGHEST[config.optimiser] if highest is None else highest
    if not 0 < lowest < highest < math.inf:
        raise OptionError(f"lowest is {lowest} and highest {highest}; expected numbers above 0, the lowest first")
    if tries < 10:
        raise OptionError(f"tries is {tries}; expected at least 10")
    ratio = lowest / highest
    rising = {"steps": tries, "epochs": None, "lr": highest, "min_lr_ratio": ratio, "schedule": "rising", "warmup": 0}
    alone = {"log": 1, "validate": tries, "monitor": "loss", "early_stop": 0, "average_after": 0, "ema_decay": 0.0}
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0

    def take(event: Event) -> None:
        nonlocal mean
        if not isinstance(event, Stepped):
            return
        if not math.isfinite(event.loss):
            raise _EnoughError
        mean = MEMORY * mean + (1 - MEMORY) * event.loss
        rates.append(event.lr)
        losses.append(mean / (1 - MEMORY ** (len(rates))))
        if _is_over(losses):
            raise _EnoughError

    tested = config.replace({**rising, **alone, "length_jitter": 0})
    with suppress(_EnoughError, TrainingError):
        train(copy.deepcopy(model), _Trained(data), tested, report=take)
    if len(rates) < 2:
        raise OptionError(f"lowest is {lowest:g}, and the loss is not finite there already; give a lower one")
    return RangeTest(tuple(rates), tuple(losses))


def _is_over(losses: Sequence[float]) -> bool:
    """Return whether the last loss has risen from the lowest by a part of what was gained since the first."""
    return len(losses) > 10 and losses[-1] > min(losses) + max(WORSE * (losses[0] - min(losses)), 0.05 * abs(losses[0]))
