"""Where a run is: the counts that it goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from everloop.models.loss import Score
from everloop.models.model import Model


@dataclass
class Place:
    """How far a run has come: steps, the next batch, what validation has said, and what no line of metrics has yet."""

    step: int = 0
    """Updates made."""
    epoch: int = 0
    """The pass of the next batch."""
    index: int = 0
    """The number of the next batch in its pass."""
    validated: int = 0
    """The step last validated, or kept where there is no validation."""
    stale: int = 0
    """Validations since the best one."""
    best: Score | None = None
    """The best validation."""
    best_step: int = 0
    """Its step."""
    nats: float = 0.0
    """Loss since the last line of metrics, as a sum."""
    count: int = 0
    """The number of its targets."""
    updates: int = 0
    """Steps that had an effect, since the last line of metrics."""
    clipped: int = 0
    """Those of them whose gradient was clipped."""
    norm: float = 0.0
    """Norm of the last gradient, before clipping."""
    clipped_norm: float = 0.0
    """The same after clipping."""
    skipped: int = 0
    """Steps without effect because loss or gradient were not finite, in all."""
    skipped_in_a_row: int = 0
    """Those of them since the last step that had an effect."""
    seconds: float = 0.0
    """Time spent in training, in all."""

    def facts(self) -> dict[str, Any]:
        """Return the place as JSON holds it."""
        best = None if self.best is None else [self.best.nats, self.best.count, dict(self.best.means)]
        since_log = [self.nats, self.count]
        plain = {name: value for name, value in vars(self).items() if name not in ("best", "nats", "count")}
        return {**plain, "best": best, "since_log": since_log}

    @classmethod
    def of(cls, facts: Mapping[str, Any], model: Model) -> Place:
        """Return the place that `facts` returned, for the same kind of model."""
        names = vars(cls()).keys() - {"best", "nats", "count"}
        place = cls(**{name: facts[name] for name in names if name in facts})
        place.nats, place.count = facts["since_log"]
        if facts["best"] is not None:
            nats, count, means = facts["best"]
            place.best = Score(nats, count, means, model.measure, model.symbols)
        return place
