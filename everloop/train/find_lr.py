"""The learning-rate range test: a short training whose learning rate rises, and what its loss says."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from statistics import linear_regression, median

from everloop.errors import OptionError, TrainingError
from everloop.models.model import Model
from everloop.train.config import TrainConfig
from everloop.train.evaluate import Data
from everloop.train.events import Event, Stepped
from everloop.train.loop import train

MEMORY = 0.9  # of the running mean of the losses that ends the test
REACH = 8  # losses before and after each in its mean, the nearer the more; as even means they do not lag
WARM = 10  # tries until such means are of several batches; what they did before is noise
LEAST = 30  # tries, of which the first are left out
PARTS, POINTS = 10, 5  # the slope of the loss is taken over a tenth of the tries, and over so many points at least
TIMES = 3  # the test ends when the loss is so many times its lowest above it, or so many times all it had gained
CLEAR = 8  # standard deviations of the mean that the loss must fall; noise alone reached 7.7 in one test of 1,000
# the standard deviation of means of equal noise, for a median of 1 of its absolute second differences
WEIGHTS = [REACH + 1 - abs(k) for k in range(-REACH, REACH + 1)]
SPREAD = math.hypot(*WEIGHTS) / sum(WEIGHTS) / (0.6745 * math.sqrt(6))
HIGHEST = {"adamw": 1.0, "adam": 1.0, "rmsprop": 1.0, "sgd": 100.0}


@dataclass(frozen=True)
class RangeTest:
    """Learning rates that were tried, one a step, and the loss before each.

    diverged: whether the test ended before its highest rate, as the loss had risen too far or was not finite any more.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    diverged: bool = False

    @cached_property
    def smooth(self) -> tuple[float, ...]:
        """Means of the losses around each, of those before and after alike, so that they fall where the losses do.

        Losses above the first ten count as the largest of these: how far above says nothing of what was gained before.
        """
        most, count = max(self.losses[:WARM]), len(self.losses)
        losses = [min(loss, most) for loss in self.losses]
        found = []
        for i in range(count):
            begin, end = max(0, i - REACH), min(count, i + REACH + 1)
            weights = WEIGHTS[begin - i + REACH : end - i + REACH]
            found.append(sum(map(operator.mul, weights, losses[begin:end])) / sum(weights))
        return tuple(found)

    @property
    def lowest(self) -> float:
        """The learning rate at which the smooth loss was lowest, the first ten aside."""
        return self.rates[self._lowest]

    @property
    def rises(self) -> bool:
        """Whether the loss rises clearly after its lowest, that is whether the range of rates was wide enough."""
        return self.diverged or max(self.smooth[self._lowest :]) - self.smooth[self._lowest] > CLEAR * self._noise

    @property
    def steepest(self) -> float | None:
        """The middle of the tenth of the rates over which the loss falls fastest; None if it falls nowhere clearly."""
        lows = list(accumulate(self.smooth[WARM:], min))  # what was lost and gained again is no fall
        wide = max(POINTS, len(self.losses) // PARTS)
        if len(lows) < wide or lows[0] - lows[-1] <= CLEAR * self._noise:
            return None
        logs = [math.log(rate) for rate in self.rates[WARM:]]
        slopes = [linear_regression(logs[i : i + wide], lows[i : i + wide]).slope for i in range(len(lows) - wide + 1)]
        return self.rates[WARM + wide // 2 + min(range(len(slopes)), key=slopes.__getitem__)]

    @property
    def suggestion(self) -> float | None:
        """`steepest` to one digit."""
        return None if self.steepest is None else float(f"{self.steepest:.0e}")

    @property
    def _lowest(self) -> int:
        return min(range(min(WARM, len(self.losses) - 1), len(self.losses)), key=self.smooth.__getitem__)

    @property
    def _noise(self) -> float:
        """The standard deviation of the smooth losses; second differences tell it, as a trend hardly changes them."""
        late = self.losses[WARM:]
        bends = [abs(a - 2 * b + c) for a, b, c in zip(late, late[1:], late[2:], strict=False)]
        return SPREAD * median(bends) if bends else math.inf

    def __str__(self) -> str:
        if self.suggestion is None:
            return (
                f"the loss does not fall clearly from {self.rates[0]:.1e} to {self.rates[-1]:.1e}, so that no learning "
                "rate is suggested; try more steps (--tries), larger batches (--batch), which have less noise, or "
                f"other rates (--lowest, --highest{', a lower one' if self.diverged else ''})"
            )
        after = "and rises again after that" if self.rises else "and the range ends before it rises"
        return (
            f"the loss falls fastest at a learning rate of {self.steepest:.1e}, a good highest one: "
            f"--lr {self.suggestion:g} (it is lowest at {self.lowest:.1e}, {after})"
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
        tries: steps, at most: the test ends once the loss has risen to several times its lowest, or is not finite.

    Raises:
        OptionError: the rates or tries make no sense, or the loss is not finite within ten steps.
    """
    config = config or TrainConfig()
    highest = checked_highest(config, lowest, highest, tries)
    ratio = lowest / highest
    rising = {"steps": tries, "epochs": None, "lr": highest, "min_lr_ratio": ratio, "schedule": "rising", "warmup": 0}
    alone = {
        "log_every": 1,
        "validate": tries,
        "best_metric": "loss",
        "early_stop": 0,
        "average_after": 0,
        "ema_decay": 0.0,
    }
    rates: list[float] = []
    losses: list[float] = []
    means: list[float] = []
    mean = 0.0

    def take(event: Event) -> None:
        nonlocal mean
        if not isinstance(event, Stepped):
            return
        if not math.isfinite(event.loss):
            raise _EnoughError
        mean = MEMORY * mean + (1 - MEMORY) * event.loss
        rates.append(event.lr)
        losses.append(event.loss)
        means.append(mean / (1 - MEMORY ** len(rates)))
        if _is_over(means):
            raise _EnoughError

    tested = config.replace({**rising, **alone, "length_jitter": 0})
    diverged = False
    try:
        if train(copy.deepcopy(model), _Trained(data), tested, report=take).interrupted:
            raise KeyboardInterrupt
    except (_EnoughError, TrainingError):
        diverged = True
    if len(rates) <= WARM:
        raise OptionError(
            f"lowest is {lowest:g}, and within {WARM} steps from there the loss is not finite; give a lower one"
        )
    return RangeTest(tuple(rates), tuple(losses), diverged)


def checked_highest(config: TrainConfig, lowest: float, highest: float | None, tries: int) -> float:
    """Return the highest learning rate of a test, that of the optimiser where there is none.

    Raises:
        OptionError: the rates or tries make no sense.
    """
    highest = HIGHEST[config.optimiser] if highest is None else highest
    if not 0 < lowest < highest < math.inf:
        raise OptionError(f"lowest is {lowest} and highest {highest}; expected numbers above 0, the lowest first")
    if tries < LEAST:
        raise OptionError(f"tries is {tries}; expected at least {LEAST}")
    return highest


def _is_over(means: Sequence[float]) -> bool:
    """Return whether the last mean is several times the lowest, or has lost several times what was gained."""
    if len(means) <= WARM:
        return False
    best = min(means[WARM:])
    return means[-1] > best + TIMES * max(abs(best), means[WARM] - best)
