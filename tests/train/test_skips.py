"""Losses and gradients that are not finite: skipped, counted, and when there are too many, training stops."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from everloop.data import Window
from everloop.diagnose.training import read_metrics
from everloop.errors import TrainingError
from everloop.models import LanguageModel, Loss, load
from everloop.train import Event, Note, Stepped, train
from everloop.train.checkpoint import Checkpoint
from tests.train.small import BASE, TEXT, small_model, weights


def failing(steps: Collection[int], bad: float = math.nan, *, state: bool = False, grad: bool = False) -> LanguageModel:
    """Return a model whose loss at some steps is bad, or its gradient alone; if wished its state is too."""
    model = small_model()
    ask, made = model.loss, 0

    def loss(batch: Window, before: Any = None) -> Loss:
        nonlocal made
        made += model.training
        found = ask(batch, before)
        if not model.training or made not in steps:
            return found
        after = tuple(tuple(t * bad for t in part) for part in found.state) if state else found.state
        added: Any = Spoilt.apply(model.head.bias[0], bad) if grad else bad  # type: ignore[no-untyped-call]
        return replace(found, total=found.total + added, state=after)

    model.loss = loss  # type: ignore[method-assign, assignment]
    return model


class Spoilt(torch.autograd.Function):
    """0, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bad: float) -> torch.Tensor:
        ctx.bad = bad
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> Any:
        return gradient[0] * ctx.bad, None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("grad", [False, True])
def test_a_step_is_skipped_and_counted(tmp_path: Path, bad: float, grad: bool) -> None:
    seen: list[Event] = []
    made: list[list[torch.Tensor]] = []
    model = failing([3, 6], bad, grad=grad)

    def report(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Stepped):
            made.append(weights(model))

    run = train(model, TEXT, BASE, log_every=1, out=tmp_path / "run", report=report)
    assert (run.step, run.skipped) == (12, 2)
    assert "12 steps, 2 of them skipped" in str(run)
    moved = [not all(map(torch.equal, a, b)) for a, b in pairwise(made)]
    assert [i + 2 for i, m in enumerate(moved) if not m] == [3, 6]
    notes = [str(event) for event in seen if isinstance(event, Note) and "skipped" in str(event)]
    what = "norm of the gradient" if grad else "loss"
    assert [note.split(" is ")[0] for note in notes] == [f"step 3: the {what}", f"step 6: the {what}"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["split"] == "train"]
    assert [line["skipped"] for line in steps] == [0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2]
    assert [line["step"] for line in steps if "loss" not in line] == [3, 6]
    assert all(math.isfinite(line["norm"]) for line in steps)


def test_the_optimiser_and_the_average_do_not_see_it(tmp_path: Path) -> None:
    train(failing([2, 3]), TEXT, BASE, ema_decay=0.5, steps=4, out=tmp_path / "run")
    parts = Checkpoint(tmp_path / "run" / "last.safetensors").parts
    steps = {int(value) for name, value in parts["optimiser"].items() if name.endswith("/step")}
    assert steps == {2}
    assert all(bool(torch.isfinite(value).all()) for value in parts["average"].values())


def test_a_state_that_is_not_finite_is_not_carried() -> None:
    losses: list[float] = []
    run = train(
        failing([3], state=True), TEXT, BASE, log_every=1,
        report=lambda event: losses.append(event.loss) if isinstance(event, Stepped) else None,
    )  # fmt: skip
    assert run.skipped == 1
    assert [i + 1 for i, loss in enumerate(losses) if not math.isfinite(loss)] == [3]


def test_too_many_in_a_row_stop_training(tmp_path: Path) -> None:
    model = failing(range(6, 99))
    message = (
        r"step 9: the loss is nan for step 4 in a row, so training stops\. "
        r"The last good checkpoint is kept in .*last\.safetensors; go on from there, for instance: "
        r"everloop train language-model --resume .*run --lr 0\.01\. Try a lower lr \(now .*\) or clip_norm"
    )
    with pytest.raises(TrainingError, match=message):
        train(model, TEXT, BASE, max_skips=3, out=tmp_path / "run")
    assert all(bool(torch.isfinite(p).all()) for p in load(tmp_path / "run", "last").parameters())
    assert train(small_model(), TEXT, out=tmp_path / "run", resume=True, lr=0.01).step == 12


def test_a_good_step_between_begins_the_count_anew() -> None:
    assert train(failing([2, 3, 5, 6, 8, 9]), TEXT, BASE, max_skips=2).skipped == 6


def test_the_count_is_resumed(tmp_path: Path) -> None:
    whole = train(failing([3, 4, 6, 7]), TEXT, BASE, out=tmp_path / "whole")
    train(failing([3, 4]), TEXT, BASE, out=tmp_path / "part", steps=4, schedule="constant")
    with pytest.raises(TrainingError, match="step 5: the loss is nan for step 3 in a row"):
        train(failing([1]), TEXT, out=tmp_path / "part", resume=True, steps=12, max_skips=2)
    assert train(failing([2, 3]), TEXT, out=tmp_path / "part", resume=True, steps=12).skipped == whole.skipped == 4


def test_diagnose_reads_metrics_of_skipped_steps() -> None:
    lines = [{"split": "train", "step": 4, "loss": 2.0, "norm": 1.0}, {"split": "train", "step": 8, "norm": 1.0}]
    assert read_metrics(lines)["losses"] == [(4, 2.0)]
    assert len(read_metrics(lines)["norms"]) == 1
