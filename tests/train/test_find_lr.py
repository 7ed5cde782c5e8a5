"""The learning-rate range test: which rates are tried, what is suggested, and that nothing else is touched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from everloop.cli import main
from everloop.errors import OptionError
from everloop.models import Loss, Model
from everloop.train import RangeTest, TrainConfig, find_lr
from everloop.train.optimiser import LearningRateSchedule
from tests.train.small import BASE, TEXT, small_model
from tests.train.test_loop import Cloud, PlaneConfig, Points


class Bowl(Model):
    """A loss of one number w, w² / 2, which gradient descent makes smaller with every rate below 2."""

    kind, config = "bowl", PlaneConfig()

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(10.0, dtype=torch.float64))

    def loss(self, batch: Points, state: Any = None) -> Loss:
        return Loss(self.w.square() / 2, 1)


SGD = TrainConfig(optimiser="sgd", clip_norm=math.inf, batch=16)


def test_rates_rise_by_equal_factors_up_to_the_highest() -> None:
    config = SGD.replace({"schedule": "rising", "lr": 8.0, "min_lr_ratio": 1 / 64, "steps": 7, "warmup": 0})
    schedule = LearningRateSchedule(config)
    assert [schedule(step) for step in range(7)] == pytest.approx([8.0 / 64 * 2**n for n in range(7)])
    found = find_lr(Bowl(), Cloud(), SGD, lowest=1e-3, highest=1.0, tries=31)
    assert found.rates == pytest.approx([10 ** (-3 + n / 10) for n in range(31)])


def test_losses_are_a_running_mean_and_the_test_ends_where_they_rise() -> None:
    model = Bowl()
    found = find_lr(model, Cloud(), SGD, lowest=1e-3, highest=100.0, tries=100)
    w, mean, expected = 10.0, 0.0, []
    for n, rate in enumerate(found.rates, 1):
        mean = 0.9 * mean + 0.1 * w * w / 2
        expected.append(mean / (1 - 0.9**n))
        w -= rate * w
    assert found.losses == pytest.approx(expected)
    assert 2 < found.rates[-1] < 20  # it diverges above 2
    assert 0.5 < found.lowest < found.rates[-1]
    assert found.suggestion == pytest.approx(found.steepest, rel=0.5)
    assert found.steepest < found.lowest
    assert float(model.w.detach()) == 10.0


def test_a_model_and_random_numbers_stay_as_they_are() -> None:
    model = small_model()
    before, random = [p.detach().clone() for p in model.parameters()], torch.get_rng_state()
    found = find_lr(model, TEXT, BASE.replace({"average_after": 2, "length_jitter": 2}), tries=12)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert model.training
    assert 2 <= len(found.rates) <= 12
    assert found == find_lr(model, TEXT, BASE.replace({"average_after": 2}), tries=12)


class Broken(Bowl):
    """A loss that is never finite, or not after a step."""

    def __init__(self, ends: float) -> None:
        super().__init__()
        self.ends = ends

    def loss(self, batch: Points, state: Any = None) -> Loss:
        return Loss(self.w * (math.nan if float(self.w.detach()) < self.ends else 1.0), 1)


def test_a_loss_that_is_not_finite_ends_the_test() -> None:
    found = find_lr(Broken(9.0), Cloud(), SGD, lowest=1e-3, highest=1e3, tries=61)
    assert found.rates[-1] < 1.1
    with pytest.raises(OptionError, match=r"lowest is 0\.001, and the loss is not finite there already"):
        find_lr(Broken(99.0), Cloud(), SGD, lowest=1e-3)


@pytest.mark.parametrize(
    ("losses", "lowest", "steepest", "suggestion"),
    [
        ([5.0, 4.9, 4.0, 3.8, 4.5], 3e-2, 3e-3, 0.003),
        ([5.0, 3.9, 3.0, 2.9, 2.95], 3e-2, 3e-4, 0.0003),
        ([3.0, 2.0], 3e-4, 3e-4, 0.0003),
    ],
)
def test_what_is_suggested(losses: Sequence[float], lowest: float, steepest: float, suggestion: float) -> None:
    found = RangeTest(tuple(3.1 * 10.0 ** (n - 5) for n in range(len(losses))), tuple(losses))
    assert found.lowest == pytest.approx(lowest, rel=0.05)
    assert found.steepest == pytest.approx(steepest, rel=0.05)
    assert found.suggestion == pytest.approx(suggestion)
    assert f"--lr {suggestion:g}" in str(found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lowest": 1.0, "highest": 0.1}, "lowest is 1.0 and highest 0.1; expected numbers above 0, the lowest first"),
        ({"lowest": 0.0}, "lowest is 0.0 and highest 100.0"),
        ({"tries": 9}, "tries is 9; expected at least 10"),
    ],
)
def test_what_makes_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        find_lr(Bowl(), Cloud(), SGD, **settings)


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("the cat sat on the mat. " * 60)
    small = "--text t.txt --hidden 4 --layers 1 --batch 2 --length 8 --tries 12 --threads 1".split()  # noqa: SIM905
    assert main(["find-lr", "lm", *small, "--out", "lr.svg"]) == 0
    shown = capsys.readouterr()
    assert "a good highest one: --lr" in shown.out
    assert "log10 of the learning rate" in Path("lr.svg").read_text()
    assert main(["find-lr", "lm", *small]) == 0
    assert "Learning-rate range test" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] in (["t.txt", "lr.svg"], ["lr.svg", "t.txt"])
    assert main(["find-lr", "lm", *small, "--track", "wandb"]) == 2
    assert "unknown option '--track'" in capsys.readouterr().err
    assert main(["find-lr"]) == 2
    assert "everloop find-lr KIND --help" in capsys.readouterr().out
