"""A model looked into: gradients through time, gates, states, and the training that made it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from everloop.diagnose.activity import Connectivity, connectivity_of
from everloop.diagnose.findings import Evidence, Finding, findings
from everloop.diagnose.gates import Gate, States, gates_and_states
from everloop.diagnose.gradients import GradientThroughTime, follow, gradients_of, learned_reach, record
from everloop.diagnose.jacobians import StepJacobians, disagreements, step_jacobians
from everloop.diagnose.training import TrainingFacts
from everloop.models.model import Model

OUTPUTS = 8  # the last of a sequence, which are asked on which inputs they depend


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found: findings, and the numbers behind them."""

    findings: tuple[Finding, ...]
    gradients: tuple[GradientThroughTime, ...]
    gates: tuple[Gate, ...]
    states: tuple[States, ...]
    jacobians: tuple[StepJacobians, ...]
    connectivity: tuple[Connectivity, ...]
    facts: TrainingFacts

    def __str__(self) -> str:
        found = [f"{n}. {finding}" for n, finding in enumerate(self.findings, 1)] or ["Nothing stands out."]
        through_time = [*map(str, self.gradients), learned_reach(self.gradients), *map(str, self.jacobians)]
        through_time += [*disagreements(self.jacobians, self.gradients), *map(str, self.connectivity)]
        parts: list[Iterable[object]] = [found, through_time, self.gates, self.states, [self.facts]]
        return "\n\n".join(filter(None, ("\n".join(map(str, part)) for part in parts)))

    def as_json(self) -> dict[str, Any]:
        """Return everything as what JSON holds."""
        found: Any = _plain(asdict(self))
        for gradient, shown in zip(self.gradients, found["gradients"], strict=True):
            shown |= {"half_life": _plain(gradient.half_life), "verdict": str(gradient)}
        for one, shown in zip(self.connectivity, found["connectivity"], strict=True):
            shown["says"] = str(one)
        for jacobians, shown in zip(self.jacobians, found["jacobians"], strict=True):
            shown |= {"half_life": _plain(jacobians.half_life), "verdict": str(jacobians)}
        found["disagreements"] = disagreements(self.jacobians, self.gradients)
        found["learned"] = learned_reach(self.gradients)
        found["facts"] |= {"final_loss": _plain(self.facts.final_loss), "clipped": self.facts.clipped}
        if self.facts.carried is not None:
            found["facts"]["carried"]["is_used"] = self.facts.carried.is_used
        return found  # type: ignore[no-any-return]


def diagnose(
    model: Model,
    batch: Any,
    state: Any = None,
    facts: TrainingFacts | None = None,
    *,
    further: Sequence[Any] = (),
) -> Diagnosis:
    """Look into a model on a batch: how far back gradients reach, what gates do, what stands out.

    Args:
        model: any model of this library with recurrent layers; it is run in evaluation mode, step by step in PyTorch.
        batch: as `model.loss` takes it; eight sequences are enough.
        state: what streams continue from.
        facts: the training, if it is known; findings about it come on top.
        further: batches with which the streams go on; Lyapunov exponents are taken over them too.

    Raises:
        UnsupportedError: the model runs no recurrent layers on the whole sequence.
    """
    facts = facts or TrainingFacts()
    lanes = record(model, batch, state)
    gates, states = gates_and_states(lanes)
    jacobians = tuple(map(step_jacobians, follow(model, [batch, *further], state)))
    depends = tuple(connectivity_of(model, lanes, outputs=OUTPUTS))
    evidence = Evidence(gradients_of(lanes), gates, states, facts)
    found, curves = tuple(findings(evidence)), tuple(evidence.gradients)
    return Diagnosis(found, curves, tuple(gates), tuple(states), jacobians, depends, facts)


def _plain(value: Any) -> Any:
    """Return a value as what JSON holds: tensors as lists, what is not finite as None."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
