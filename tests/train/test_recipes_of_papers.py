"""What recipes of papers need: their optimisers, averages that validation begins, accumulation, regularisation."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everloop.data import Window
from everloop.errors import OptionError
from everloop.models import LanguageModel
from everloop.train import Event, Note, Stepped, TrainConfig, train
from everloop.train.average import TriggeredAverage
from everloop.train.optimiser import optimiser
from tests.train.small import BASE, TEXT, small_model, weights
from tests.train.test_loop import Cloud, Plane, Points
from tests.train.test_resume import assert_same_run

PEERS: dict[str, Any] = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.95)),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.8, 0.95), weight_decay=0.01),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.95, momentum=0.3),
}


@pytest.mark.parametrize("name", PEERS)
def test_an_optimiser_is_that_of_pytorch(name: str) -> None:
    layers = [nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)]
    layers[1].load_state_dict(layers[0].state_dict())
    momentum = 0.3 if name in ("sgd", "rmsprop") else 0.0
    config = TrainConfig(optimiser=name, lr=0.1, betas=(0.8, 0.95), momentum=momentum)  # type: ignore[arg-type]
    updates = optimiser(layers[0], config), PEERS[name](layers[1].parameters())
    for _ in range(5):
        gradient = torch.randn(4, 3)
        for layer, update in zip(layers, updates, strict=True):
            layer.weight.grad = gradient.clone()
            update.step()
    torch.testing.assert_close(layers[0].weight, layers[1].weight)


@pytest.mark.parametrize("patience", [1, 3, 5])
def test_the_average_begins_where_the_paper_says_and_is_the_mean_from_there(patience: int) -> None:
    layer = nn.Linear(2, 2, bias=False)
    average = TriggeredAverage(layer, patience)
    losses = [3.0, 2.5, 2.6, 2.2, 2.3, 2.4, 2.1, 2.3, 2.35, 2.4, 2.2, 2.3, 2.5, 2.6]
    begun = next(t for t in range(len(losses)) if t > patience and losses[t] > min(losses[: t - patience]))
    since: list[Tensor] = []
    for t, loss in enumerate(losses):
        for step in range(3):
            with torch.no_grad():
                layer.weight.normal_()
            average.update(step)
            if t > begun:
                since.append(layer.weight.detach().clone())
        assert average.validated(-loss) == (t == begun)
        assert average.begun == (t > begun)
        before = layer.weight.detach().clone()
        with average:
            torch.testing.assert_close(layer.weight, torch.stack(since).mean(0) if since else before)
        assert torch.equal(layer.weight, before)


NT_ASGD = BASE.replace(
    {
        "optimiser": "sgd",
        "lr": 1.0,
        "average_after": 1,
        "schedule": "constant",
        "validate": 2,
        "steps": 24,
        "log_every": 2,
    }
)


def test_an_average_that_begins_in_training_and_is_resumed(tmp_path: Path) -> None:
    seen: list[Event] = []

    def spoiling(model: LanguageModel, events: list[Event], stop: int = 0) -> Any:
        def report(event: Event) -> None:
            events.append(event)
            if isinstance(event, Stepped) and event.step == 8:
                with torch.no_grad():  # worse than before, so that averaging begins
                    model.head.bias.add_(torch.arange(len(model.head.bias)))
            if stop and isinstance(event, Stepped) and event.step == stop:
                os.kill(os.getpid(), signal.SIGINT)

        return report

    model = small_model()
    whole = train(model, TEXT, NT_ASGD, out=tmp_path / "whole", report=spoiling(model, seen))
    began = [str(event) for event in seen if isinstance(event, Note) and "averaged" in str(event)]
    assert began == ["step 8: nothing better for long; from now on weights are averaged"]
    for stop in (10, 14):
        model = small_model()
        path = tmp_path / f"part{stop}"
        train(model, TEXT, NT_ASGD, out=path, report=spoiling(model, [], stop))
        assert_same_run(whole, train(small_model(), TEXT, out=path, resume=True))


class Uneven(Cloud):
    """Batches of 16 points, or each of them in two of 5 and 11."""

    def epoch(self, split: str, number: int, *, batch: int, seed: int) -> Sequence[Points]:
        found = super().epoch(split, number, batch=16, seed=seed)
        cuts = [slice(16)] if batch == 16 else [slice(5), slice(5, 16)]
        return [Points(points.x[cut], points.y[cut]) for points in found for cut in cuts]


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 0.01}, {"clip_value": 0.01}])
def test_accumulated_gradients_are_those_of_the_large_batch(clip: dict[str, Any]) -> None:
    made: list[list[Tensor]] = []
    losses: list[list[float]] = []
    for batch, accumulate in ((16, 1), (8, 2)):
        torch.manual_seed(0)
        model = Plane()
        seen: list[float] = []
        train(
            model, Uneven(), steps=40, batch=batch, accumulate=accumulate, lr=0.05, log_every=1, optimiser="sgd",
            **clip,
            report=lambda event, seen=seen: seen.append(event.loss) if isinstance(event, Stepped) else None,  # type: ignore[misc]
        )  # fmt: skip
        made.append(weights(model))
        losses.append(seen)
    torch.testing.assert_close(made[0], made[1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_passes_count_accumulated_batches() -> None:
    assert train(Plane(), Uneven(), epochs=2, batch=8, accumulate=2).step == 10


def window() -> Window:
    batch: Window = TEXT.epoch("train", 0, batch=3, length=7, seed=0)[0]
    return batch


def test_activation_and_temporal_regularization() -> None:
    model = LanguageModel(TEXT.vocabulary, hidden=5, activation_regularization=2.0, temporal_regularization=3.0)
    plain = LanguageModel(TEXT.vocabulary, hidden=5)
    plain.load_state_dict(model.state_dict())
    y = model.recurrent(model.embedding(window().x))[0].detach()
    costs = 2.0 * float((y**2).mean()) + 3.0 * float(((y[1:] - y[:-1]) ** 2).mean())
    found, usual = model.loss(window()), plain.loss(window())
    assert float(found.mean.detach()) == pytest.approx(float(usual.mean.detach()) + costs)
    assert torch.equal(found.total, usual.total)  # what is shown
    model.eval()
    assert torch.equal(model.loss(window()).mean, plain.loss(window()).mean)
    one = model.train().loss(TEXT.epoch("train", 0, batch=3, length=1, seed=0)[0])
    assert math.isfinite(float(one.mean.detach()))


def test_activation_regularization_is_of_what_dropout_leaves() -> None:
    torch.manual_seed(0)
    model = LanguageModel(TEXT.vocabulary, hidden=5, dropout=0.5, activation_regularization=2.0)
    torch.manual_seed(4)
    penalty = model.loss(window()).penalty
    torch.manual_seed(4)
    rows = model._read(window().x, None)[0].detach()
    assert penalty is not None
    assert float(penalty.detach()) == pytest.approx(2.0 * float((rows**2).mean()))


def test_label_smoothing_of_a_language_model() -> None:
    model = LanguageModel(TEXT.vocabulary, hidden=5, label_smoothing=0.2)
    scores = model(window().x)[0].flatten(0, 1)
    for training, smoothing in ((True, 0.2), (False, 0.0)):
        expected = F.cross_entropy(scores, window().y.flatten().long(), reduction="sum", label_smoothing=smoothing)
        torch.testing.assert_close(model.train(training).loss(window()).total, expected)


@pytest.mark.parametrize("name", ["activation_regularization", "temporal_regularization", "label_smoothing"])
def test_costs_below_0(name: str) -> None:
    settings: dict[str, Any] = {name: -1.0}
    with pytest.raises(OptionError, match=rf"{name} is -1\.0"):
        LanguageModel(TEXT.vocabulary, hidden=5, **settings)
