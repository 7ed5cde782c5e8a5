"""Decay, the learning rate and the average, against formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from everloop.train.average import Average
from everloop.train.config import TrainConfig
from everloop.train.events import clock
from everloop.train.optimiser import LearningRateSchedule, optimiser
from tests.train.small import small_model


def test_only_matrices_decay() -> None:
    model = small_model()
    decayed, plain = (group["params"] for group in optimiser(model, TrainConfig()).param_groups)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in plain} >= {"embedding.weight", "head.bias"}
    assert "head.weight" in {names[id(p)] for p in decayed}
    assert all(p.ndim == 2 for p in decayed)
    assert len(decayed) + len(plain) == len(names)


def test_tied_weights_are_updated_once_and_not_decayed() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    decayed, plain = (group["params"] for group in optimiser(model, TrainConfig()).param_groups)
    assert (len(decayed), len(plain)) == (0, 1)


def test_decay_is_that_of_the_formula() -> None:
    layer = nn.Linear(3, 2)
    update = optimiser(layer, TrainConfig(lr=0.1, weight_decay=0.5))
    before = layer.weight.detach().clone(), layer.bias.detach().clone()
    for p in layer.parameters():
        p.grad = torch.zeros_like(p)
    update.step()
    torch.testing.assert_close(layer.weight.detach(), before[0] * (1 - 0.1 * 0.5))
    assert torch.equal(layer.bias.detach(), before[1])


def test_cosine() -> None:
    rate = LearningRateSchedule(TrainConfig(steps=110, warmup=10, lr=1.0, min_lr_ratio=0.2))
    assert [rate(step) for step in (0, 4, 9)] == pytest.approx([1 / 11, 5 / 11, 10 / 11])
    assert rate(10) == pytest.approx(1.0)
    assert rate(60) == pytest.approx(0.6)
    assert rate(109) == pytest.approx(0.2, abs=1e-3)
    assert rate(500) == pytest.approx(0.2)
    assert all(rate(step) > rate(step + 1) for step in range(10, 109))


def test_constant() -> None:
    rate = LearningRateSchedule(TrainConfig(warmup=0, lr=0.3, schedule="constant"))
    assert {rate(step) for step in range(100)} == {0.3}


def test_plateau_halves_down_to_the_floor() -> None:
    rate = LearningRateSchedule(TrainConfig(warmup=0, lr=1.0, schedule="plateau", plateau=2, min_lr_ratio=0.1))
    seen = []
    for improved in [True, False, False, False, True, False, False] + [False] * 8:
        rate.validated(improved)
        seen.append(rate(1))
    assert seen == [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.1, 0.1, 0.1, 0.1, 0.1]


def test_average_follows_the_formula() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = Average(layer, 0.5)
    expected = float(layer.weight.detach())
    for step in range(12):
        with torch.no_grad():
            layer.weight.fill_(step)
        average.update(step)
        share = min(0.5, (step + 1) / (step + 10))
        expected = share * expected + (1 - share) * step
    assert float(average.values[0]) == pytest.approx(expected)
    with average:
        assert float(layer.weight.detach()) == pytest.approx(expected)
    assert float(layer.weight.detach()) == 11


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01"), (math.inf, "0:00")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
