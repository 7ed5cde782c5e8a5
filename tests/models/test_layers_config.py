"""The settings of recurrent layers that every kind of model has: noise while training, and first weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop import cells
from everloop.cell import Cell, H, I, param, state
from everloop.data import Vocabulary, Window
from everloop.data.datasets.conditions import Conditions
from everloop.data.datasets.examples import ExamplesBatch
from everloop.data.datasets.parallel import Parallel
from everloop.data.datasets.series import Series
from everloop.data.datasets.tagged import Tagged
from everloop.data.datasets.transcribed import TranscribedBatch
from everloop.errors import OptionError
from everloop.models import Classifier, Forecaster, LanguageModel, Model, Tagger
from everloop.models.body import BodyConfig, body
from everloop.models.encoder_decoder import EncoderDecoder
from everloop.models.generator import Generator
from everloop.models.transcriber import Transcriber

SMALL: dict[str, Any] = {"cell": "lstm", "hidden": 6, "layers": 2, "dropout": 0.0}


def language_model(**settings: Any) -> tuple[Model, Any]:
    numbers = torch.randint(4, (9, 2))
    return LanguageModel(Vocabulary("\nabc"), **SMALL | settings), Window(numbers[:-1], numbers[1:])


def classifier(**settings: Any) -> tuple[Model, Any]:
    model = Classifier(3, ["a", "b"], **SMALL | settings)
    return model, ExamplesBatch(torch.randn(7, 2, 3), torch.tensor([7, 4]), torch.tensor([0, 1]))


def tagger(**settings: Any) -> tuple[Model, Any]:
    data = Tagged({"train": [(["they", "walk"], ["P", "V"]), (["she", "sings"], ["P", "V"])] * 2})
    model = Tagger(data.tokenizer or 0, data.labels, char_embedding=0, **SMALL | settings)
    return model, data.epoch("train", 0, batch=4)[0]


def forecaster(**settings: Any) -> tuple[Model, Any]:
    data = Series(torch.randn(60, 2), context=6, horizon=2)
    model = Forecaster(["a", "b"], context=6, horizon=2, season=2, **SMALL | settings)
    return model, data.epoch("train", 0, batch=4)[0]


def translator(**settings: Any) -> tuple[Model, Any]:
    data = Parallel([("ein hund", "a dog"), ("ein mann", "a man")] * 2)
    model = EncoderDecoder(data.source, data.target, embedding=6, label_smoothing=0.0, **SMALL | settings)
    return model, data.epoch("train", 0, batch=4)[0]


def generator(**settings: Any) -> tuple[Model, Any]:
    data = Conditions([("x", "abc"), ("y", "cba")] * 2)
    return Generator(data.labels, data.vocabulary, **SMALL | settings), data.epoch("train", 0, batch=4)[0]


def transcriber(**settings: Any) -> tuple[Model, Any]:
    model = Transcriber(Vocabulary("abc"), mels=4, stacked=1, **SMALL | settings)
    labels, lengths = torch.tensor([[0, 1], [2, 1]]), torch.tensor([2, 2])
    return model, TranscribedBatch(torch.randn(9, 2, 4), torch.tensor([9, 7]), labels, lengths)


MAKERS = [language_model, classifier, tagger, forecaster, translator, generator, transcriber]
NOISE: list[dict[str, Any]] = [
    {"recurrent_dropout": 0.5},
    {"variational_dropout": 0.5},
    {"weight_drop": 0.5},
    {"zoneout": {"h": 0.5, "c": 0.3}},
    {"recurrent_dropout": 0.2, "variational_dropout": 0.2, "weight_drop": 0.2, "zoneout": {"c": 0.2}},
]


@pytest.mark.parametrize("noise", NOISE, ids=lambda noise: "+".join(noise))
@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_noise_acts_in_training_alone_and_lets_gradients_through(
    make: Callable[..., tuple[Model, Any]], noise: dict[str, Any]
) -> None:
    quiet, batch = make()
    losses = {float(quiet.loss(batch).total.detach()) for _ in range(2)}
    assert len(losses) == 1
    model, batch = make(**noise)
    loss = model.loss(batch).total
    assert float(loss.detach()) != float(model.loss(batch).total.detach())
    loss.backward()  # type: ignore[no-untyped-call]
    recurrent = [p for name, p in model.named_parameters() if name.endswith((".R", ".W"))]
    assert recurrent
    assert all(p.grad is not None and bool(p.grad.any()) for p in recurrent)
    model.eval()
    with torch.no_grad():
        assert float(model.loss(batch).total) == float(model.loss(batch).total)
    # the settings are those of the run, by which it is made again
    assert {name: getattr(model.config, name) for name in noise} == noise


def lstms(model: torch.nn.Module) -> list[Cell]:
    return [part for part in model.modules() if type(part) is cells.LSTM]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_first_weights(make: Callable[..., tuple[Model, Any]]) -> None:
    model, _ = make(orthogonal=True, forget_bias=1.5, zoneout={"h": 0.1})
    assert len(lstms(model)) >= 2
    for cell in lstms(model):
        matrix = cell.get_parameter("R").detach()
        for block in torch.split(matrix, cell.hidden_size):
            torch.testing.assert_close(block @ block.T, torch.eye(cell.hidden_size), rtol=1e-5, atol=1e-5)
        gate = slice(cell.hidden_size, 2 * cell.hidden_size)
        biases: list[Tensor] = [p.detach() for name, p in cell.named_parameters() if name.startswith("b")]
        torch.testing.assert_close(sum(b[gate] for b in biases), torch.full((cell.hidden_size,), 1.5))


def test_the_speller_of_a_tagger_starts_alike() -> None:
    data = Tagged({"train": [(["they", "walk"], ["P", "V"])]})
    model = Tagger(data.tokenizer or 0, data.labels, orthogonal=True, hidden=4, char_hidden=3)
    first = lstms(model.speller)[0].get_parameter("R").detach()[:3]
    torch.testing.assert_close(first @ first.T, torch.eye(3), rtol=1e-5, atol=1e-5)


def test_all_noise_together_is_compiled() -> None:
    config = BodyConfig(hidden=8, bidirectional=False, **NOISE[-1])
    layer = body(config, 5, "lstm")
    layer(torch.randn(4, 2, 5))
    assert "llvm" in str(layer.explain())


def test_a_cell_that_no_file_holds() -> None:
    names: dict[str, Any] = {"Cell": Cell, "H": H, "I": I, "param": param, "state": state, "torch": torch}
    exec(
        "class Own(Cell):\n"
        "    h = state(H)\n    W = param(H, I + H)\n\n"
        "    def step(self, x, h):\n        return torch.tanh(torch.cat([x, h], -1) @ self.W.T)\n",
        names,
    )
    own = names["Own"]
    for model in (
        Classifier(3, ["a", "b"], own, hidden=4),
        LanguageModel(Vocabulary("ab"), own, hidden=4),
        Transcriber(Vocabulary("ab"), own, hidden=4),
    ):
        assert any(type(part) is own for part in model.modules())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"zoneout": {"k": 0.1}}, "unknown state 'k'"),
        ({"zoneout": {"h": 1.0}}, "dropout rate h is 1.0"),
        ({"weight_drop": 1.0}, "weight_drop is 1.0; expected a fraction below 1"),
        ({"cell": "gru", "forget_bias": 1.0}, "GRU has no forget gate f"),
        ({"cell": "indrnn", "weight_drop": 0.1}, "indrnn has no recurrent matrix"),
        ({"cell": "indrnn", "recurrent_dropout": 0.1}, "indrnn has no recurrent matrix"),
        ({"zonout": {"h": 0.1}}, "did you mean 'zoneout'"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    for make in (language_model, classifier, generator):
        with pytest.raises(OptionError, match=message):
            make(**settings)


def test_feeding_goes_step_by_step() -> None:
    with pytest.raises(OptionError, match="input_feeding goes step by step"):
        translator(input_feeding=True, context="attention", weight_drop=0.1)
    model, batch = translator(input_feeding=True, context="attention", zoneout={"h": 0.5})
    assert float(model.loss(batch).total.detach()) != float(model.loss(batch).total.detach())
