"""How fast a model trains on this machine as it is now: how long a run will take, or how many steps fit in minutes."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass

from everloop.models.model import Model
from everloop.train.config import TrainConfig
from everloop.train.evaluate import Data
from everloop.train.events import Event, Stepped, Validated
from everloop.train.loop import train
from everloop.train.trainer import with_steps

TRIED = 5


@dataclass(frozen=True)
class Pace:
    """Seconds that a step takes, and a validation."""

    step: float
    validation: float

    def steps(self, seconds: float, validations: int) -> int:
        """Return how many steps fit into some seconds, beside so many validations; at least one."""
        return max(1, int((seconds - validations * self.validation) / self.step))

    def seconds(self, steps: int, validations: int) -> float:
        """Return how long some steps and validations take."""
        return steps * self.step + validations * self.validation


def pace(model: Model, data: Data, config: TrainConfig, tried: int = TRIED) -> Pace:
    """Train a copy of a model for a few steps, and return how long they took; a validation is 0 where there is none.

    `tried` steps are timed, after as many that are not: the first ones compile.
    """
    times: list[tuple[Event, float]] = []
    # so low a rate leaves the weights as they are, whatever training would do to them
    still = {"lr": 1e-12, "epochs": None, "early_stop": 0}
    few = config.replace({"steps": 2 * tried, "log_every": tried, "validate": 2 * tried, **still})
    run = train(copy.deepcopy(model), data, few, report=lambda event: times.append((event, time.perf_counter())))
    if run.interrupted:
        raise KeyboardInterrupt
    begun, ended = (at for event, at in times if isinstance(event, Stepped))
    validated = next((at for event, at in times if isinstance(event, Validated)), ended)
    return Pace((ended - begun) / tried, validated - ended)


def duration(model: Model, data: Data, config: TrainConfig) -> float:
    """Return how many seconds training will take, by what a few steps of it take."""
    steps = with_steps(config, model, data, lambda event: None).steps
    return pace(model, data, config, tried=2).seconds(steps, math.ceil(steps / config.validate))
