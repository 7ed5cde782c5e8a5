"""A model looked into: gradients through time, gates, states, and the training that made it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from everloop.diagnose.findings import Evidence, Finding, findings
from everloop.diagnose.gates import Gate, States, gates_and_states
from everloop.diagnose.gradients import GradientThroughTime, gradients_of, record
from everloop.diagnose.jacobians import lyapunov_exponents
from everloop.diagnose.training import TrainingFacts
from everloop.models.model import Model


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found: findings, and the numbers behind them. exponents: the first Lyapunov exponent by layer."""

    findings: tuple[Finding, ...]
    gradients: tuple[GradientThroughTime, ...]
    gates: tuple[Gate, ...]
    states: tuple[States, ...]
    exponents: dict[str, float]
    facts: TrainingFacts

    def __str__(self) -> str:
        lines = [f"{n}. {finding}" for n, finding in enumerate(self.findings, 1)] or ["Nothing stands out."]
        lines += ["", *map(str, self.gradients), "", *map(str, self.gates), "", *map(str, self.states), ""]
        lines += [f"{layer}: first Lyapunov exponent {value:+.3f} a step" for layer, value in self.exponents.items()]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Return everything as what JSON holds."""
        found: Any = _plain(asdict(self))
        for gradient, shown in zip(self.gradients, found["gradients"], strict=True):
            shown |= {"half_life": _plain(gradient.half_life), "verdict": str(gradient)}
        return found  # type: ignore[no-any-return]


def diagnose(model: Model, batch: Any, state: Any = None, facts: TrainingFacts | None = None) -> Diagnosis:
    """Look into a model on a batch: how far back gradients reach, what gates do, what stands out.

    Args:
        model: any model of this library with recurrent layers; it is run in evaluation mode, step by step in PyTorch.
        batch: as `model.loss` takes it; eight sequences are enough.
        state: what streams continue from.
        facts: the training, if it is known; findings about it come on top.

    Raises:
        UnsupportedError: the model runs no recurrent layers on the whole sequence.
    """
    facts = facts or TrainingFacts()
    lanes = record(model, batch, state)
    gates, states = gates_and_states(lanes)
    exponents = {t.layer: float(lyapunov_exponents(t, 1)[0]) for lane in lanes for t in lane.tracks}
    evidence = Evidence(gradients_of(lanes), gates, states, facts)
    return Diagnosis(
        tuple(findings(evidence)), tuple(evidence.gradients), tuple(gates), tuple(states), exponents, facts
    )


def _plain(value: Any) -> Any:
    """Return a value as what JSON holds: tensors as lists, what is not finite as None."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
