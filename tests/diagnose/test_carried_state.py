"""Whether the state that a window of a stream hands on is used: the loss with it against that with an empty one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from everloop.diagnose import TrainingFacts
from everloop.diagnose.findings import Evidence, findings
from everloop.diagnose.training import CarriedState, carried_state
from everloop.models import Model
from everloop.models.loss import Loss


@dataclass
class Window:
    """So many targets, each of which costs 1, and `gain` more where no state comes."""

    count: int
    gain: float


class Remembering(Model):
    """A stream whose loss is larger at the start of what it knows nothing of."""

    kind = "remembering"
    streams = True
    hands_on = True

    def loss(self, batch: Any, state: Any = None) -> Loss:
        assert not self.training
        each = 1.0 if state is not None else 1.0 + batch.gain
        after = (torch.zeros(1),) if self.hands_on else None
        return Loss(torch.tensor(each * batch.count), batch.count, after)


def test_the_loss_with_the_state_and_without_it() -> None:
    model = Remembering().train()
    windows = [Window(10, 9.0), Window(10, 0.5), Window(30, 0.25), Window(10, 0.75)]
    found = carried_state(model, windows, "valid")
    assert model.training
    assert found is not None
    assert found.loss == 1.0
    assert found.empty == pytest.approx(1 + (5 + 7.5 + 7.5) / 50)
    assert found.error == pytest.approx(0.25 / 3**0.5)
    assert found.is_used
    facts = TrainingFacts(carries=True, carried=found)
    said = (
        "training: the state is handed on to the next window and used: the loss (valid) is 1 with it, 1.4 with an empty"
    )
    assert str(facts).startswith(said)


@pytest.mark.parametrize("gains", [[0.0, 0.0, 0.0], [0.4, -0.3, 0.2], [-0.1, -0.1, -0.1], [5e-4, 5e-4, 5e-4]])
def test_a_state_that_makes_no_difference_is_hardly_used(gains: list[float]) -> None:
    found = carried_state(Remembering(), [Window(10, gain) for gain in [0.0, *gains]], "train")
    assert found is not None
    assert not found.is_used
    evidence = Evidence((), (), (), replace(TrainingFacts(), carries=True, carried=found, window=48))
    (note,) = findings(evidence)
    assert (note.name, note.is_note) == ("state unused", True)
    assert note.says.startswith("The carried state is hardly used: the loss (train) is 1 with it,")
    assert "a window of 48 steps" in note.because


def test_nothing_is_said_where_there_is_nothing_to_compare() -> None:
    windows = [Window(10, 0.5)] * 4
    model = Remembering()
    assert carried_state(model, windows[:2], "valid") is None
    model.hands_on = False
    assert carried_state(model, windows, "valid") is None
    assert not findings(Evidence((), (), (), TrainingFacts(carried=CarriedState("valid", 1.0, 1.5, 0.1))))
