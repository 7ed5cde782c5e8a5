"""How fast a model trains on this machine as it is now, so that a run can be given minutes in place of steps."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

from everloop.models.model import Model
from everloop.train.config import TrainConfig
from everloop.train.evaluate import Data
from everloop.train.events import Event, Stepped, Validated
from everloop.train.loop import train

TRIED = 5  # steps that are timed, after as many that are not: the first ones compile


@dataclass(frozen=True)
class Pace:
    """Seconds that a step takes, and a validation."""

    step: float
    validation: float

    def steps(self, seconds: float, validations: int) -> int:
        """Return how many steps fit into some seconds, beside so many validations; at least one."""
        return max(1, int((seconds - validations * self.validation) / self.step))


def pace(model: Model, data: Data, config: TrainConfig) -> Pace:
    """Train a copy of a model for a few steps, and return how long they took; a validation is 0 where there is none."""
    times: list[tuple[Event, float]] = []
    few = config.replace({"steps": 2 * TRIED, "log": TRIED, "validate": 2 * TRIED, "epochs": None, "early_stop": 0})
    train(copy.deepcopy(model), data, few, report=lambda event: times.append((event, time.perf_counter())))
    begun, ended = (at for event, at in times if isinstance(event, Stepped))
    validated = next((at for event, at in times if isinstance(event, Validated)), ended)
    return Pace((ended - begun) / TRIED, validated - ended)
