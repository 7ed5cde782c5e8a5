"""How many steps fit into some minutes."""

from __future__ import annotations

import pytest
import torch

from everloop.data import Text
from everloop.models import LanguageModel
from everloop.train import Run, TrainConfig
from everloop.train.pace import Pace, pace


@pytest.mark.parametrize(("seconds", "steps"), [(60.0, 440), (16.1, 1), (1.0, 1)])
def test_steps_and_validations_share_the_time(seconds: float, steps: int) -> None:
    assert Pace(step=0.1, validation=2.0).steps(seconds, validations=8) == steps


def test_an_interrupt_while_it_is_tried_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    text = Text.from_string("to be or not to be " * 300)
    ended = Run(None, 1, None, 0, interrupted=True)
    monkeypatch.setattr("everloop.train.pace.train", lambda *_, **__: ended)
    with pytest.raises(KeyboardInterrupt):
        pace(LanguageModel(text.vocabulary, hidden=8, layers=1), text, TrainConfig())


@pytest.mark.parametrize("split", [(0.9, 0.1, 0.0), (1.0, 0.0, 0.0)])
def test_the_model_that_is_tried_stays_as_it_is(split: tuple[float, float, float]) -> None:
    text = Text.from_string("to be or not to be " * 300, split=split)
    model = LanguageModel(text.vocabulary, hidden=8, layers=1)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    random = torch.get_rng_state()
    found = pace(model, text, TrainConfig(batch=4, length=8, epochs=2))
    assert found.step > 0
    assert (found.validation > 0) is ("valid" in text.splits)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
