"""The learning-rate range test: which rates are tried, what is suggested, and that nothing else is touched."""

from __future__ import annotations

import math
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from everloop.cli import main
from everloop.data import Examples, ExamplesConfig
from everloop.errors import OptionError
from everloop.models import Classifier, ClassifierConfig, Loss, Model
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


def test_losses_are_smoothed_evenly_and_the_test_ends_where_they_rise() -> None:
    model = Bowl()
    found = find_lr(model, Cloud(), SGD, lowest=1e-3, highest=100.0, tries=100)
    w, expected = 10.0, []
    for rate in found.rates:
        expected.append(w * w / 2)
        w -= rate * w
    assert found.losses == pytest.approx(expected)
    for n, mean in enumerate(found.smooth):
        weights = [max(0, 9 - abs(n - k)) for k in range(len(expected))]
        total = sum(weight * min(loss, 50) for weight, loss in zip(weights, expected, strict=True))
        assert mean == pytest.approx(total / sum(weights))
    assert 2 < found.rates[-1] < 20  # it diverges above 2
    assert 0.5 < found.lowest < found.rates[-1]
    assert found.steepest
    assert found.steepest < found.lowest
    assert found.suggestion == pytest.approx(found.steepest, rel=0.5)
    assert found.diverged
    assert found.rises
    assert float(model.w.detach()) == 10.0


def test_a_model_and_random_numbers_stay_as_they_are() -> None:
    model = small_model()
    before, random = [p.detach().clone() for p in model.parameters()], torch.get_rng_state()
    found = find_lr(model, TEXT, BASE.replace({"average_after": 2, "length_jitter": 2}), tries=30)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert model.training
    assert 10 < len(found.rates) <= 30
    assert found == find_lr(model, TEXT, BASE.replace({"average_after": 2}), tries=30)


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
    with pytest.raises(OptionError, match=r"lowest is 0\.001, and within 10 steps from there the loss is not finite"):
        find_lr(Broken(99.0), Cloud(), SGD, lowest=1e-3)


class Stopped(Bowl):
    """Ctrl-C comes at the third step, or at the thirteenth."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def loss(self, batch: Points, state: Any = None) -> Loss:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGINT)
        return super().loss(batch)


@pytest.mark.parametrize("at", [3, 13])
def test_ctrl_c_ends_the_test_and_nothing_is_said_of_the_loss(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        find_lr(Stopped(at), Cloud(), SGD)
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("the cat sat on the mat. " * 60)
    monkeypatch.setattr(
        "everloop.cli.find_lr.fresh", lambda kind, options, *rest, **more: (Stopped(at), Cloud(), options)
    )
    assert main(["find-lr", "lm", "--text", "t.txt", "--out", "lr.svg", "--threads", "1"]) == 130
    shown = capsys.readouterr()
    assert "the loss" not in shown.out + shown.err
    assert not Path("lr.svg").exists()


RATES = tuple(10 ** (-6 + 6 * n / 99) for n in range(100))


def curve(seed: int, fall: float = 0.5, rise: float = 0.0, tries: int = 100, noise: float = 0.1) -> RangeTest:
    """Return what is found in a noisy loss of 0.7 that falls fastest at a rate of 0.01, and may rise from 0.3 on."""
    source, rates = random.Random(seed), RATES[:tries]
    clear = [0.7 - fall / (1 + (0.01 / rate) ** 2) + rise * max(0.0, math.log10(rate / 0.3)) for rate in rates]
    return RangeTest(rates, tuple(loss + source.gauss(0, noise) for loss in clear))


@pytest.mark.parametrize("seed", range(16))
def test_the_rate_is_that_at_which_the_loss_falls_fastest(seed: int) -> None:
    found = curve(seed, rise=4.0, noise=0.01)
    assert found.steepest == pytest.approx(0.01, rel=0.35)  # two of the rates up or down
    assert 0.03 < found.lowest < 0.12
    exact = curve(seed, rise=4.0, noise=0.0)
    assert exact.steepest == pytest.approx(0.01, rel=0.15)  # the nearest rate


@pytest.mark.parametrize("seed", range(16))
def test_a_rate_is_suggested_where_a_noisy_loss_falls(seed: int) -> None:
    found = curve(seed, rise=4.0)
    assert found.suggestion
    assert 2e-3 < found.suggestion < 5e-2
    assert found.suggestion < found.lowest < 0.9
    assert f"--lr {found.suggestion:g} (it is lowest at {found.lowest:.1e}, and rises again after that)" in str(found)


@pytest.mark.parametrize("seed", range(16))
def test_a_loss_that_does_not_rise_is_not_said_to(seed: int) -> None:
    found = curve(seed)
    assert not found.rises
    assert "and the range ends before it rises)" in str(found)


@pytest.mark.parametrize("seed", range(16))
def test_noise_alone_suggests_nothing(seed: int) -> None:
    for tries in (11, 12, 30, 100):
        found = curve(seed, fall=0.0, tries=tries)
        assert found.steepest is found.suggestion is None
        assert "the loss does not fall clearly from 1.0e-06 to" in str(found)
        assert "--lr " not in str(found)


class Noisy(Bowl):
    """A loss that is noise around 0.7, whatever the weights."""

    def loss(self, batch: Points, state: Any = None) -> Loss:
        return Loss(0 * self.w + 0.7 + 0.2 * torch.randn((), dtype=torch.float64), 1)


@pytest.mark.parametrize("seed", range(8))
def test_noise_does_not_end_the_test(seed: int) -> None:
    found = find_lr(Noisy(), Cloud(), SGD.replace({"seed": seed}))
    assert len(found.rates) == 100
    assert not found.diverged
    assert found.suggestion is None


def test_a_small_classifier_with_small_batches_is_not_told_the_lowest_rate() -> None:
    choose = random.Random(0).choice
    words = [[choose("the film was a plot with".split()) for _ in range(6)] for _ in range(200)]  # noqa: SIM905
    texts = [f"{' '.join(some)} {'good' if n % 2 else 'bad'}" for n, some in enumerate(words)]
    data = Examples.of((texts, ["ny"[n % 2] for n in range(200)]), config=ExamplesConfig(units="words"))
    for seed in range(4):
        torch.manual_seed(seed)
        model = Classifier.of(data, ClassifierConfig(hidden=8, embedding=8, layers=1, dropout=0.3, word_dropout=0.3))
        found = find_lr(model, data, TrainConfig(batch=4, seed=seed))
        assert found.suggestion
        assert found.suggestion > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lowest": 1.0, "highest": 0.1}, "lowest is 1.0 and highest 0.1; expected numbers above 0, the lowest first"),
        ({"lowest": 0.0}, "lowest is 0.0 and highest 100.0"),
        ({"tries": 29}, "tries is 29; expected at least 30"),
    ],
)
def test_what_makes_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        find_lr(Bowl(), Cloud(), SGD, **settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--tries 29", "tries is 29; expected at least 30"),
        ("--lowest 1 --highest 0.1", "lowest is 1.0 and highest 0.1; expected numbers above 0, the lowest first"),
        ("--lowest 2", "lowest is 2.0 and highest 1.0"),
        ("--lowest 200 --optimiser sgd", "lowest is 200.0 and highest 100.0"),
    ],
)
def test_what_makes_no_sense_is_told_before_data_is_read(
    options: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["find-lr", "lm", "--text", "missing.txt", *options.split()]) == 2
    assert message in capsys.readouterr().err


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("the cat sat on the mat. " * 60)
    small = "--text t.txt --hidden 4 --layers 1 --batch 2 --length 8 --tries 30 --threads 1".split()  # noqa: SIM905
    assert main(["find-lr", "lm", *small, "--out", "lr.svg"]) == 0
    shown = capsys.readouterr()
    assert "the loss " in shown.out
    chosen = next(line for line in shown.err.splitlines() if line.startswith("chosen for"))
    assert "--dropout 0.2" in chosen
    assert not {"--steps", "--validate", "--early-stop"} & set(chosen.split())
    assert "log10 of the learning rate" in Path("lr.svg").read_text()
    assert main(["find-lr", "lm", *small]) == 0
    assert "Learning-rate range test" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] in (["t.txt", "lr.svg"], ["lr.svg", "t.txt"])
    assert main(["find-lr", "lm", *small, "--track", "wandb"]) == 2
    assert "unknown option '--track'" in capsys.readouterr().err
    assert main(["find-lr"]) == 2
    assert "everloop find-lr KIND --help" in capsys.readouterr().out
