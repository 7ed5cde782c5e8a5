"""A question to a model leaves each of its modules in the mode in which it was, also where the answer is an error."""

from __future__ import annotations

import pytest
import torch

from everloop.data.datasets.conditions import Conditions
from everloop.data.pictures import PictureSize
from everloop.errors import EverloopError
from everloop.models import Classifier, Generator
from everloop.models.model import Model
from everloop.models.modes import evaluating
from everloop.train import evaluate
from tests.train.small import TEXT, small_model


def modes(model: Model) -> list[bool]:
    return [module.training for module in model.modules()]


def mixed(model: Model) -> list[bool]:
    """Put a model into training, and every second module of it into evaluation; return the modes."""
    model.train()
    for module in [*model.modules()][1::2]:
        module.training = False
    return modes(model)


def test_weights_of_a_generator() -> None:
    vocabulary = Conditions([("x", "ab")]).vocabulary
    model = Generator(PictureSize(8, 8), vocabulary, hidden=4, embedding=4, given="attention")
    before = mixed(model)
    model.weights(torch.zeros(8, 8, 1), "a")
    assert modes(model) == before


def test_questions_to_other_models() -> None:
    classifier = Classifier(3, ["a", "b"], hidden=4, layers=1)
    before = mixed(classifier)
    classifier.classify([torch.zeros(5, 3)])
    assert modes(classifier) == before


def test_validation_of_a_model_of_which_a_part_is_frozen() -> None:
    model = small_model()
    before = mixed(model)
    evaluate(model, TEXT, batch=2, length=8)
    assert modes(model) == before


def test_an_error_leaves_the_modes_too() -> None:
    model = Classifier(3, ["a", "b"], hidden=4, layers=1)
    before = mixed(model)
    with evaluating(model):
        assert not any(modes(model))
    assert modes(model) == before
    with pytest.raises(EverloopError):
        model.classify([torch.zeros(5, 4)])
    assert modes(model) == before
