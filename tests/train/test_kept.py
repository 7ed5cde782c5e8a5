"""Which weights a run keeps: the best, the average, the last; and what stops it."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop.data import Text, Window
from everloop.errors import TrainingError
from everloop.models import LanguageModel, Loss, load
from everloop.train import Event, Started, Stepped, Validated, evaluate, train
from tests.train.small import BASE, TEXT, small_model, weights


def spoil_after(step: int, model: LanguageModel, seen: list[Event]) -> Callable[[Event], None]:
    """Return a report that makes the model worse, once, after the validation at `step`."""

    def report(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Validated) and event.step == step:
            with torch.no_grad():
                model.head.weight.normal_(std=9.0)

    return report


def test_early_stop() -> None:
    seen: list[Event] = []
    model = small_model()
    config = BASE.replace({"early_stop": 2, "steps": 400, "validate": 5, "lr": 1e-3, "schedule": "constant"})
    run = train(model, TEXT, config, report=spoil_after(15, model, seen))
    assert (run.best_step, run.step) == (15, 25)
    assert "stopped early" in str(seen[-1])
    assert not run.interrupted


def test_the_model_ends_with_its_best_weights() -> None:
    model = small_model()
    run = train(model, TEXT, BASE.replace({"lr": 1e-3}), report=spoil_after(8, model, []))
    assert run.best is not None
    assert run.best_step == 8
    assert evaluate(model, TEXT, batch=3, length=11) == run.best
    assert not model.training


def test_average_is_what_is_validated_and_kept(tmp_path: Path) -> None:
    model = small_model()
    run = train(model, TEXT, BASE.replace({"ema_decay": 0.95}), out=tmp_path / "run")
    assert run.best_step == 12
    assert evaluate(load(run), TEXT, batch=3, length=11) == run.best
    assert evaluate(load(run, "last"), TEXT, batch=3, length=11) != run.best


def test_without_validation_the_last_weights_stay(tmp_path: Path) -> None:
    text = Text.from_string("the cat sat on the mat\n" * 20, split=(1, 0, 0))
    model = LanguageModel(text.vocabulary, hidden=4)
    run = train(model, text, BASE, out=tmp_path / "run")
    assert run.best is None
    assert not (tmp_path / "run" / "best.safetensors").exists()
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(load(run)), strict=True))


@pytest.mark.parametrize("folder", [True, False])
def test_without_validation_the_average_is_kept(tmp_path: Path, folder: bool) -> None:
    text = Text.from_string("the cat sat on the mat\n" * 20, split=(1, 0, 0))
    model = LanguageModel(text.vocabulary, hidden=4)
    expected, made = weights(model), list[list[Tensor]]()

    def report(event: Event) -> None:
        if isinstance(event, Stepped):
            made.append(weights(model))

    config = BASE.replace({"ema_decay": 0.7, "log_every": 1})
    run = train(model, text, config, out=tmp_path / "run" if folder else None, report=report)
    assert len(made) == config.steps
    for step, now in enumerate(made):
        share = min(0.7, (step + 1) / (step + 10))
        expected = [share * old + (1 - share) * new for old, new in zip(expected, now, strict=True)]
    for model_now in [model, load(run)] if folder else [model]:
        torch.testing.assert_close(weights(model_now), expected)
    if folder:
        assert all(torch.equal(a, b) for a, b in zip(weights(load(run, "last")), made[-1], strict=True))
        # a resumed run goes on from the weights, not from their average
        twin = LanguageModel(text.vocabulary, hidden=4)
        train(twin, text, config.replace({"steps": 13}), out=tmp_path / "run", resume=True)
        assert not torch.equal(weights(load(run))[0], expected[0])


def test_an_interrupted_run_without_validation_keeps_its_average(tmp_path: Path) -> None:
    text = Text.from_string("the cat sat on the mat\n" * 20, split=(1, 0, 0))
    model = LanguageModel(text.vocabulary, hidden=4)

    def report(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 6:  # between two checkpoints
            signal.raise_signal(signal.SIGINT)

    run = train(model, text, BASE.replace({"ema_decay": 0.7, "log_every": 1}), out=tmp_path / "run", report=report)
    assert (run.step, run.interrupted) == (6, True)
    copy = weights(load(run))
    assert all(torch.equal(a, b) for a, b in zip(weights(model), copy, strict=True))
    assert not torch.equal(weights(load(run, "last"))[0], copy[0])


def test_without_validation_checkpoints_are_written_all_the_same(tmp_path: Path) -> None:
    text = Text.from_string("the cat sat on the mat\n" * 20, split=(1, 0, 0))
    model, made = LanguageModel(text.vocabulary, hidden=4), list[int]()
    ask = model.loss

    def failing(batch: Window, state: Any = None) -> Loss:
        loss = ask(batch, state)
        made.append(1)
        return replace(loss, total=loss.total * math.nan) if len(made) == 11 else loss

    model.loss = failing  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="step 11: the loss is nan"):
        train(model, text, BASE, out=tmp_path / "run", max_skips=0)
    del model.loss
    seen = list[Event]()
    train(LanguageModel(text.vocabulary, hidden=4), text, out=tmp_path / "run", resume=True, report=seen.append)
    assert isinstance(seen[0], Started)
    assert seen[0].step == 8


def test_a_validation_that_is_not_finite_names_the_step_validated(tmp_path: Path) -> None:
    model = small_model()
    ask = model.loss

    def failing(batch: Window, state: Any = None) -> Loss:
        loss = ask(batch, state)
        return loss if model.training else replace(loss, total=loss.total * math.nan)

    model.loss = failing  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="step 4: the validation loss is nan"):
        train(model, TEXT, BASE, out=tmp_path / "run")
