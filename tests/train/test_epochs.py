"""Passes over the data in place of steps, the warm-up that is not given, and the figure that chooses the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from everloop.data import Text
from everloop.errors import OptionError
from everloop.models.run import RunConfig
from everloop.train import Started, TrainConfig, train
from tests.train.small import BASE, TEXT, small_model, weights


@pytest.mark.parametrize(("epochs", "passes"), [(1, 1.0), (2, 2.0), (0.5, 0.5), (0.01, 0.01)])
def test_passes_are_so_many_steps(epochs: float, passes: float, tmp_path: Path) -> None:
    batches = len(TEXT.epoch("train", 0, batch=BASE.batch, length=11))
    told: list[object] = []
    run = train(small_model(), TEXT, BASE, epochs=epochs, out=tmp_path / "run", report=told.append)
    assert run.step == max(1, round(passes * batches))
    assert next(event for event in told if isinstance(event, Started)).steps == run.step
    said = f"1 pass of {batches:,} batches is" if epochs == 1 else f"{epochs:g} passes of {batches:,} batches are"
    assert f"{said} {run.step:,} steps" in map(str, told)
    kept = RunConfig.read(tmp_path / "run").settings("train", TrainConfig)
    assert (kept.steps, kept.epochs) == (run.step, None)


def test_the_same_weights_as_with_so_many_steps() -> None:
    batches = len(TEXT.epoch("train", 0, batch=BASE.batch, length=11))
    models = small_model(), small_model()
    train(models[0], TEXT, BASE, epochs=1)
    train(models[1], TEXT, BASE, steps=batches)
    assert all(a.equal(b) for a, b in zip(*map(weights, models), strict=True))


@pytest.mark.parametrize("epochs", [0, -1, float("inf")])
def test_passes_that_make_no_sense(epochs: float) -> None:
    with pytest.raises(OptionError, match=r"epochs is .*; expected a number above 0"):
        TrainConfig(epochs=epochs)


@pytest.mark.parametrize(("steps", "warmup"), [(5000, 100), (1000, 100), (60, 6), (1, 0)])
def test_the_warmup_fits_the_steps(steps: int, warmup: int) -> None:
    assert TrainConfig(steps=steps).warmup_steps == warmup
    assert TrainConfig(steps=steps, warmup=7).warmup_steps == 7


def test_the_figure_to_monitor_is_looked_for_before_training() -> None:
    model = small_model()
    before = weights(model)
    with pytest.raises(OptionError, match="best_metric is 'acuracy'; validation has: loss"):
        train(model, TEXT, BASE, best_metric="acuracy")
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
    whole = Text.from_string("the cat sat on the mat\n" * 40, split=(1, 0, 0), vocabulary=TEXT.vocabulary)
    with pytest.raises(OptionError, match="the data has no validation split; give one, or leave it out"):
        train(model, whole, BASE, best_metric="accuracy")
