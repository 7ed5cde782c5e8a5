"""Windows of varied lengths: what is drawn, the learning rate that follows, and runs that are resumed among them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from everloop.data import Text, Window
from everloop.data.batching.windows import varied_lengths
from everloop.errors import OptionError
from everloop.models import LanguageModel
from everloop.train import Event, Stepped, TrainConfig, train
from everloop.train.ranks import ALONE
from everloop.train.trainer import Trainer
from tests.train.small import BASE, TEXT, small_model
from tests.train.test_length import SMALL, classifier
from tests.train.test_resume import assert_same_run

VARIED = BASE.replace({"length_jitter": 2, "steps": 40, "validate": 10})


def drawn(seed: int, steps: int = 100_000, length: int = 70, jitter: int = 5) -> list[int]:
    return varied_lengths(steps, length, jitter, torch.Generator().manual_seed(seed))


def test_lengths_are_those_of_the_paper() -> None:
    lengths = torch.tensor(drawn(0), dtype=torch.float64)
    assert lengths.sum() >= 100_000
    short = lengths < 52
    assert float(short.double().mean()) == pytest.approx(0.05, abs=0.005)
    assert float(lengths[~short].mean()) == pytest.approx(69.5, abs=0.2)  # numbers are cut to whole ones
    assert float(lengths[~short].std()) == pytest.approx(5, abs=0.3)
    assert float(lengths[short].mean()) == pytest.approx(34.5, abs=0.5)
    assert lengths.max() <= 80
    assert drawn(0) == drawn(0) != drawn(1)


@pytest.mark.parametrize(("steps", "length", "jitter"), [(1, 1, 1), (3, 70, 5), (9, 2, 50), (70, 70, 100), (7, 4, 1)])
def test_odd_sizes(steps: int, length: int, jitter: int) -> None:
    lengths = drawn(3, steps, length, jitter)
    assert sum(lengths) >= steps
    assert all(1 <= each <= steps for each in lengths)


def epoch(number: int, **sizes: Any) -> list[Window]:
    return list(TEXT.epoch("train", number, seed=1, **sizes))


def test_windows_continue_each_stream() -> None:
    windows = epoch(0, batch=3, length=11, jitter=3)
    assert len({len(window.x) for window in windows}) > 3
    x, y = (torch.cat([getattr(window, name) for window in windows]) for name in "xy")
    assert torch.equal(x[1:], y[:-1])
    size = (len(TEXT["train"]) - 1) // 3
    assert size - 11 - 17 <= len(x) <= size  # a shift at the beginning, and a window that is not full at the end
    assert [window.first for window in windows] == [True] + [False] * (len(windows) - 1)
    assert [window.scale for window in windows] == [len(window.x) / 11 for window in windows]
    for again, window in zip(epoch(0, batch=3, length=11, jitter=3), windows, strict=True):
        assert torch.equal(again.x, window.x)
    assert [len(w.x) for w in epoch(1, batch=3, length=11, jitter=3)] != [len(w.x) for w in windows]


def test_validation_is_as_ever() -> None:
    plain, varied = (list(TEXT.epoch("valid", 0, batch=2, length=11, jitter=n)) for n in (0, 3))
    assert [len(window.x) for window in plain] == [len(window.x) for window in varied]


class Watched(Trainer):
    """A trainer that keeps the learning rate of each update, and the steps of its batches."""

    rates: list[float]
    steps: list[int]

    def _next(self) -> Any:
        batch = super()._next()
        self.steps = [*getattr(self, "steps", []), len(batch.x)]
        return batch


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_learning_rate_follows_the_length(accumulate: int) -> None:
    config = VARIED.replace(
        {"accumulate": accumulate, "schedule": "constant", "warmup": 0, "log_every": 1, "steps": 20}
    )
    rates: list[float] = []

    def report(event: Event) -> None:
        if isinstance(event, Stepped):
            rates.append(event.lr)

    trainer = Watched(small_model(), TEXT, config, None, report, ALONE)
    train_all(trainer)
    of = [sum(trainer.steps[i : i + accumulate]) / accumulate for i in range(0, len(trainer.steps), accumulate)]
    assert rates == pytest.approx([0.02 * each / 11 for each in of])
    assert len(set(rates)) > 3


def train_all(trainer: Trainer) -> None:
    trainer.run(lambda: False, False)


def test_a_run_is_resumed_among_its_windows(tmp_path: Path) -> None:
    whole = train(small_model(), TEXT, VARIED, out=tmp_path / "whole")

    def stopping(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 24:
            os.kill(os.getpid(), signal.SIGINT)

    part = train(small_model(), TEXT, VARIED, out=tmp_path / "part", report=stopping)
    assert part.interrupted
    assert_same_run(whole, train(small_model(), TEXT, out=tmp_path / "part", resume=True))
    with pytest.raises(OptionError, match="length_jitter 3 instead of 2"):
        train(small_model(), TEXT, out=tmp_path / "part", resume=True, length_jitter=3)


def test_what_makes_no_sense() -> None:
    with pytest.raises(OptionError, match="length_jitter is -1; expected 0 or more"):
        TrainConfig(length_jitter=-1)
    with pytest.raises(OptionError, match="length_jitter is 2, which is for streams of text; leave it out for a class"):
        train(*classifier(), length_jitter=2, **SMALL)


def test_recompute_changes_no_number() -> None:
    text = Text.from_string("the cat sat on the mat. " * 20, split=(1, 0, 0), documents="mat")
    window = text.epoch("train", 0, batch=2, length=50)[0]
    found = []
    for steps in (0, 7):
        torch.manual_seed(0)
        model = LanguageModel(text.vocabulary, hidden=6, layers=2, recompute=steps)
        assert model.recurrent.recompute == steps
        loss = model.loss(window)
        found.append([loss.total, *torch.autograd.grad(loss.mean, list(model.parameters()))])
    torch.testing.assert_close(found[0], found[1])
    with pytest.raises(OptionError, match="recompute is -1; expected at least 0"):
        LanguageModel(text.vocabulary, recompute=-1)
    for name in ("recompute", "hidden", "embedding"):
        size: dict[str, Any] = {name: 10**20 - 1}
        with pytest.raises(OptionError, match=f"{name} is 9{{20}}; expected at most 2147483647"):
            LanguageModel(text.vocabulary, **size)
