"""Precision, recall and F1 by label, against counting by hand."""

from __future__ import annotations

import pytest
import torch

from everloop.data.datasets.examples import Examples, ExamplesConfig, Part
from everloop.data.datasets.tagged import Tagged, TaggedConfig
from everloop.models import Classifier, ClassifierConfig, Tagger, TaggerConfig
from everloop.train import Labels, evaluate, label_metrics

NAMES = ("a", "b", "c", "d")


def test_figures_by_hand() -> None:
    wanted = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    guessed = torch.tensor([0, 0, 1, 1, 1, 0, 0, 0])
    found = Labels.of(NAMES, wanted, guessed)
    a, b, c, d = found.labels
    assert (a.precision, a.recall, a.support) == (2 / 5, 2 / 4, 4)
    assert a.f1 == pytest.approx(2 * 0.4 * 0.5 / 0.9)
    assert (b.precision, b.recall, b.support) == (1 / 3, 1 / 2, 2)
    assert (c.precision, c.recall, c.f1, c.support) == (None, 0.0, 0.0, 2)
    assert (d.precision, d.recall, d.f1, d.support) == (None, None, 0.0, 0)
    # d neither occurs nor is given, so it is no part of the mean
    assert found.macro.precision == pytest.approx((2 / 5 + 1 / 3 + 0) / 3)
    assert found.weighted.recall == pytest.approx((4 * 0.5 + 2 * 0.5 + 0) / 8)
    assert found.macro.support == 8
    assert found.confusions == (("a", "b", 2), ("c", "a", 2), ("b", "a", 1))
    lines = str(found).splitlines()
    assert lines[3].split() == ["c", "–", "0.0000", "0.0000", "2"]
    assert "  a for b: 2" in lines


def test_several_labels_at_once() -> None:
    wanted = torch.tensor([[True, True], [False, True], [False, False]])
    guessed = torch.tensor([[True, False], [True, True], [False, True]])
    found = Labels.of(("x", "y"), wanted, guessed)
    assert [(row.precision, row.recall, row.support) for row in found.labels] == [(0.5, 1.0, 1), (0.5, 0.5, 2)]
    assert found.confusions == ()


def test_the_recall_of_a_classifier_is_its_accuracy() -> None:
    texts, labels = ["good film", "bad film", "good bad plot", "plot"] * 5, ["1", "0", "2", "1"] * 5
    data = Examples({"train": Part(texts.__getitem__, labels, True, "mine")}, ExamplesConfig(units="words"))
    model = Classifier.of(data, ClassifierConfig(hidden=4))
    found = label_metrics(model, data, "train", batch=3)
    accuracy = evaluate(model, data, "train").means["accuracy"]
    assert found.weighted.recall == pytest.approx(accuracy)
    assert [row.support for row in found.labels] == [5, 10, 5]
    wrong = sum(row.support for row in found.labels) - sum(count for _, _, count in found.confusions)
    assert wrong == pytest.approx(accuracy * 20)


@pytest.mark.parametrize("output", ["softmax", "crf"])
def test_padding_of_a_tagger_does_not_count(output: str) -> None:
    sentences = [(["they", "walk", "home"], ["PRON", "VERB", "ADV"]), (["she"], ["PRON"])] * 4
    data = Tagged({"train": sentences}, TaggedConfig(padding=0.9))
    assert len(data.epoch("train", 0, batch=64)) == 1
    model = Tagger.of(data, TaggerConfig(hidden=4, char_hidden=4, output=output))  # type: ignore[arg-type]
    found = label_metrics(model, data, "train")
    assert found.macro.support == 16
    assert found.weighted.recall == pytest.approx(evaluate(model, data, "train").means["accuracy"])
