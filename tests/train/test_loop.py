"""The training loop: that it learns, what every setting changes, when it stops."""

from __future__ import annotations

import json
import math
import threading
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from everloop import cells
from everloop.data import Text, Window
from everloop.decode import sample
from everloop.errors import DataError, OptionError, TrainingError
from everloop.models import LanguageModel, Loss, Model, load
from everloop.train import Event, Note, Started, Stepped, Validated, train
from tests.train.small import BASE, CONFIG, TEXT, small_model, weights


def test_a_short_text_is_learned_by_heart() -> None:
    line = "what is repeated often enough is learned. "
    text = Text.from_string(line * 60, split=(0.9, 0.1, 0))
    model = LanguageModel(text.vocabulary, cell=cells.GRU, hidden=32, layers=1)
    run = train(model, text, steps=120, batch=8, length=32, lr=1e-2, warmup=5, validate=40)
    assert run.best is not None
    assert run.best.loss < 0.2
    assert sample(model, line[:12], length=len(line), temperature=0) == line[12:] + line[:12]


def test_the_same_settings_give_the_same_weights() -> None:
    models = [small_model(), small_model()]
    for i, model in enumerate(models):
        torch.manual_seed(i)
        train(model, TEXT, CONFIG)
    assert all(torch.equal(a, b) for a, b in zip(weights(models[0]), weights(models[1]), strict=True))


def test_random_numbers_outside_are_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model = small_model()
    torch.manual_seed(5)
    train(model, TEXT, CONFIG, steps=3)
    assert torch.equal(torch.get_rng_state(), before)


CHANGES: list[dict[str, Any]] = [
    {"steps": 13},
    {"batch": 4},
    {"length": 12},
    {"lr": 1e-2},
    {"warmup": 3},
    {"schedule": "constant"},
    {"schedule": "plateau"},
    {"min_lr_ratio": 0.5},
    {"weight_decay": 0.5},
    {"betas": (0.8, 0.99)},
    {"betas": (0.9, 0.9)},
    {"clip_norm": 0.01},
    {"clip_value": 1e-3},
    {"clip_adaptive": 0.01},
    {"ema_decay": 0.9},
    {"optimiser": "adam"},
    {"optimiser": "sgd"},
    {"optimiser": "rmsprop"},
    {"optimiser": "rmsprop", "momentum": 0.5},
    {"accumulate": 2},
    {"seed": 1},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_setting_changes_the_weights(change: dict[str, Any]) -> None:
    plain, changed = small_model(), small_model()
    train(plain, TEXT, BASE)
    train(changed, TEXT, BASE.replace(change))
    assert not all(torch.equal(a, b) for a, b in zip(weights(plain), weights(changed), strict=True))


def test_plateau_setting_changes_the_rate() -> None:
    rates = {}
    for patience in (1, 3):
        seen: list[float] = []
        config = BASE.replace({"schedule": "plateau", "plateau": patience, "lr": 0.5, "steps": 40, "validate": 2})
        train(small_model(), TEXT, config, report=lambda e, s=seen: s.append(e.lr) if isinstance(e, Stepped) else None)  # type: ignore[misc]
        rates[patience] = seen
    assert rates[1][-1] < rates[3][-1] <= 0.5
    assert rates[1][-1] >= 0.5 * BASE.min_lr_ratio


def test_validate_and_log_say_how_often() -> None:
    seen: list[Event] = []
    train(small_model(), TEXT, BASE.replace({"validate": 5, "log_every": 3}), report=seen.append)
    assert [e.step for e in seen if isinstance(e, Validated)] == [5, 10, 12]
    assert [e.step for e in seen if isinstance(e, Stepped)] == [3, 6, 9, 12]
    assert isinstance(seen[0], Started)
    assert all(str(event) for event in seen)


def test_state_is_carried_within_a_pass_and_not_across() -> None:
    model, states = small_model(dropout=0.0), list[tuple[bool, Any, Any]]()
    ask = model.loss

    def listening(batch: Window, state: Any = None) -> Loss:
        loss = ask(batch, state)
        if model.training:
            states.append((batch.first, state, loss.state))
        return loss

    model.loss = listening  # type: ignore[method-assign]
    passes = len(TEXT.epoch("train", 0, batch=3, length=11))
    train(model, TEXT, BASE.replace({"steps": passes + 3}))
    assert [first for first, _, _ in states].count(True) == 2
    for (_, _, before), (first, state, _) in pairwise(states):
        assert (state is None) is first
        if state is not None:
            assert torch.equal(state[0][0], before[0][0])
            assert not state[0][0].requires_grad


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops(tmp_path: Path, bad: float) -> None:
    model = small_model()
    ask = model.loss
    made: list[int] = []

    def failing(batch: Window, state: Any = None) -> Loss:
        loss = ask(batch, state)
        made.extend([1] * model.training)
        return replace(loss, total=loss.total * bad) if len(made) == 9 and model.training else loss

    model.loss = failing  # type: ignore[method-assign]
    message = rf"step 9: the loss is {bad}.*last good checkpoint is kept in .*last.*lower lr"
    with pytest.raises(TrainingError, match=message):
        train(model, TEXT, BASE, out=tmp_path / "run", max_skips=0)
    del model.loss
    # the checkpoint is that of the last validation, and training can go on from there
    assert train(small_model(), TEXT, out=tmp_path / "run", resume=True).step == 12


def test_a_gradient_that_is_not_finite_stops(tmp_path: Path) -> None:
    model = small_model()
    model.head.weight.register_hook(lambda gradient: gradient * math.nan)  # type: ignore[no-untyped-call]
    before = weights(model)
    with pytest.raises(TrainingError, match="step 1: the norm of the gradient is nan"):
        train(model, TEXT, BASE, out=tmp_path / "run", max_skips=0)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
    assert (tmp_path / "run" / "last.safetensors").exists()


def test_weights_that_are_not_finite_are_never_kept(tmp_path: Path) -> None:
    model = small_model()

    def spoil(event: Event) -> None:
        if isinstance(event, Validated) and event.step == 8:
            with torch.no_grad():
                model.head.bias[0] = math.nan

    with pytest.raises(TrainingError, match=r"weight head\.bias is nan"):
        train(model, TEXT, BASE, out=tmp_path / "run", report=spoil)
    assert all(bool(torch.isfinite(p).all()) for p in load(tmp_path / "run", "last").parameters())


def test_run_folder(tmp_path: Path) -> None:
    train(small_model(), TEXT, CONFIG, out=tmp_path / "deep" / "run")
    folder = tmp_path / "deep" / "run"
    tables = tomllib.loads((folder / "config.toml").read_text())
    assert tables["train"]["lr"] == CONFIG.lr
    assert tables["model"]["kind"] == "language-model"
    assert tables["data"]["split"] == [0.9, 0.1, 0]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "valid"] == [10, 20, 30]
    assert [line["step"] for line in lines if line["split"] == "train"] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert all(line["bits"] == pytest.approx(line["loss"] / math.log(2)) for line in lines)


def test_logged_loss_is_the_mean_over_the_steps() -> None:
    one: list[Event] = []
    many: list[Event] = []
    train(small_model(), TEXT, BASE.replace({"log_every": 1}), report=one.append)
    train(small_model(), TEXT, BASE.replace({"log_every": 6}), report=many.append)
    single = [e.loss for e in one if isinstance(e, Stepped)]
    grouped = [e.loss for e in many if isinstance(e, Stepped)]
    assert grouped == [pytest.approx(sum(single[:6]) / 6), pytest.approx(sum(single[6:]) / 6)]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"step": 3}, "unknown setting 'step'; did you mean 'steps'"),
        ({"steps": 0}, "steps is 0; expected at least 1"),
        ({"steps": "5"}, "steps is '5'; expected an integer"),
        ({"lr": -1.0}, "lr is -1.0; expected a number above 0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"lr": math.inf}, "lr is inf"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"min_lr_ratio": 2.0}, "min_lr_ratio is 2.0"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"betas": (0.9, 1.0)}, "two fractions below 1"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"clip_adaptive": -0.01}, "clip_adaptive is -0.01; expected a number above 0"),
        ({"momentum": 0.9}, "momentum is 0.9, for sgd and rmsprop; adamw has betas"),
        ({"momentum": 1.0, "optimiser": "sgd"}, "momentum is 1.0; expected a fraction below 1"),
        ({"accumulate": 0}, "accumulate is 0; expected at least 1"),
        ({"optimiser": "sdg"}, "did you mean 'sgd'"),
        ({"average_after": 5, "ema_decay": 0.9}, "are two ways to average the weights; give one"),
        ({"max_skips": -1}, "max_skips is -1; expected 0 or more"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"seed": 2**32}, "seed is 4294967296; expected an integer from 0"),
        ({"best_metric": "acuracy"}, "best_metric is 'acuracy'; validation has: loss"),
    ],
)
def test_settings_that_make_no_sense(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        train(small_model(), TEXT, **{**vars(BASE), **setting})


def test_text_too_short_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too short for one window"):
        train(small_model(), TEXT, BASE, batch=1000, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_it_runs_outside_the_main_thread() -> None:
    runs: list[Any] = []
    thread = threading.Thread(target=lambda: runs.append(train(small_model(), TEXT, BASE)))
    thread.start()
    thread.join()
    assert runs[0].step == 12


@dataclass(frozen=True)
class Points:
    """A batch of another kind: vectors and their classes, with nothing carried."""

    x: Tensor
    y: Tensor
    first: bool = True

    def to(self, device: torch.device | str) -> Points:
        """Return the batch on a device."""
        return Points(self.x.to(device), self.y.to(device))


class Cloud:
    """Data of another kind: points on both sides of a plane, shuffled anew in each pass."""

    splits = ("train", "valid")
    fingerprint = "cloud"

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        self.x = torch.randn(100, 4, generator=random)
        self.y = (self.x[:, 0] + self.x[:, 1] > 0).long()

    def epoch(self, split: str, number: int, *, batch: int, seed: int) -> Sequence[Points]:
        """Return the batches of one pass."""
        order = torch.arange(80, 100)
        if split == "train":
            order = torch.randperm(80, generator=torch.Generator().manual_seed(seed * 1000 + number))
        return [Points(self.x[part], self.y[part]) for part in torch.split(order, batch)]


@dataclass(frozen=True)
class PlaneConfig:
    """Nothing to choose."""


class Plane(Model):
    """A model of another kind, whose validation also says how often it is right."""

    kind = "plane"
    config = PlaneConfig()

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def loss(self, batch: Points, state: Any = None) -> Loss:
        """Return the cross entropy, with the number of right answers."""
        assert state is None
        logits = self.head(batch.x)
        total = nn.functional.cross_entropy(logits, batch.y, reduction="sum")
        right = int((logits.argmax(-1) == batch.y).sum())
        return Loss(total, len(batch.y), sums={"accuracy": (right, len(batch.y))})


def test_any_model_and_any_data_can_be_trained_and_resumed(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "steps": 60,
        "batch": 16,
        "lr": 0.05,
        "validate": 10,
        "best_metric": "accuracy",
        "warmup": 0,
    }
    torch.manual_seed(0)
    model = Plane()
    run = train(model, Cloud(), out=tmp_path / "run", **settings)
    assert run.best is not None
    assert run.best.means["accuracy"] >= 0.9
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    best = max((line["accuracy"], -line["step"]) for line in lines if line["split"] == "valid")
    assert best == (run.best.means["accuracy"], -run.best_step)
    again = train(Plane(), Cloud(), out=tmp_path / "run", resume=True)
    assert again.best == run.best


def test_notes_print_themselves() -> None:
    assert str(Note("saved")) == "saved"
