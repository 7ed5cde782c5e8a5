"""Every model that writes symbols learns from the same numbers, whether all logits are made at once or never."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from everloop.data import Text
from everloop.data.datasets.conditions import Conditions
from everloop.layers import linear_cross_entropy as operation
from everloop.models import EncoderDecoder, Generator, LanguageModel, Model
from tests.models.small_pairs import backwards


def language_model() -> tuple[Model, Any]:
    text = Text.from_string("what is read is not what is written\n" * 20, split=(0.8, 0.2, 0))
    model = LanguageModel(text.vocabulary, hidden=6, layers=1, embedding=5, tied=False)
    return model, text.epoch("train", 0, batch=3, length=8)[0]


def translator() -> tuple[Model, Any]:
    data = backwards(60)
    model = EncoderDecoder(data.source, data.target, hidden=8, embedding=6, tied=True, label_smoothing=0.2, dropout=0)
    return model, data.epoch("train", 0, batch=6)[0]


def generator() -> tuple[Model, Any]:
    data = Conditions([("up", "abcd"), ("down", "dc")] * 4, [("up", "abcd")])
    model = Generator(data.labels, data.vocabulary, hidden=6, embedding=5, dropout=0)
    return model, data.epoch("train", 0, batch=6)[0]


@pytest.mark.parametrize("make", [language_model, translator, generator])
@pytest.mark.parametrize("training", [True, False])
def test_logits_are_never_kept(
    make: Callable[[], tuple[Model, Any]], training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = make()
    model.double().train(training)
    weights = [p for p in model.parameters() if p.requires_grad]
    found = []
    for few in (1 << 20, 0):
        monkeypatch.setattr(operation, "FEW", few)
        if not few:
            monkeypatch.setattr(F, "cross_entropy", None)
        monkeypatch.setattr(operation, "NUMBERS", 50)
        with torch.set_grad_enabled(training):
            loss = model.loss(batch)
        grads = torch.autograd.grad(loss.mean, weights) if training else ()
        found.append(([loss.total, *grads], loss.count, loss.sums))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]
