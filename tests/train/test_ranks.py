"""What each of several processes has of a batch: the losses and gradients of all are those of one, noise included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop import cells
from everloop.cell import Cell, H, I, mask, noise, param, state
from everloop.data.datasets.conditions import Conditions
from everloop.data.datasets.examples import Examples, ExamplesConfig, Part
from everloop.data.datasets.series import Series
from everloop.data.datasets.strokes import Strokes, StrokesConfig
from everloop.data.datasets.tagged import Tagged, TaggedConfig
from everloop.data.datasets.transcribed import TranscribedBatch
from everloop.data.tokenize.vocabulary import Vocabulary
from everloop.errors import OptionError
from everloop.layers import Recurrent, Stack, VariationalDropout, WeightDrop, Zoneout
from everloop.layers.rows import Rows, drawn, rows_of_batch
from everloop.models.classifier import Classifier, ClassifierConfig
from everloop.models.encoder_decoder import EncoderDecoder
from everloop.models.forecaster import Forecaster, ForecasterConfig
from everloop.models.generator import Generator
from everloop.models.language_model import LanguageModel
from everloop.models.tagger import Tagger, TaggerConfig
from everloop.models.transcriber import Transcriber
from everloop.train.ranks import Ranks
from tests.models.small_pairs import backwards
from tests.train.small import TEXT

NOISE: dict[str, Any] = {
    "hidden": 6, "layers": 2, "dropout": 0.3, "weight_drop": 0.3, "recurrent_dropout": 0.2, "variational_dropout": 0.2,
    "zoneout": {"h": 0.3},
}  # fmt: skip
STEPWISE = {"recurrent_dropout": 0.0, "variational_dropout": 0.0, "weight_drop": 0.0}
WORDS = ["a", "bad", "film", "indeed", "good"]
CPU = torch.device("cpu")


def language_model(**settings: Any) -> tuple[Any, Any]:
    model = LanguageModel(TEXT.vocabulary, cells.LSTM, embedding=4, temporal_regularization=1.0, **NOISE, **settings)
    return model, TEXT.epoch("train", 0, batch=7, length=6)[1]


def classifier() -> tuple[Any, Any]:
    sentences = [" ".join(WORDS[: 1 + i % 5]) for i in range(20)]
    part = Part(sentences.__getitem__, [str(i % 2) for i in range(20)], True, "")
    data = Examples({"train": part}, ExamplesConfig(hold_out=(0.0, 0.0), min_freq=1))
    config = ClassifierConfig(embedding=4, word_dropout=0.3, input_dropout=0.3, label_smoothing=0.1, **NOISE)
    return Classifier.of(data, config), data.collate([data["train"][i] for i in range(7)])


def tagger() -> tuple[Any, Any]:
    pairs = [(WORDS[: 1 + i % 5], ["x", "y", "x", "z", "y"][: 1 + i % 5]) for i in range(20)]
    data = Tagged({"train": pairs}, TaggedConfig(hold_out=(0.0, 0.0), min_freq=1))
    config = TaggerConfig(output="crf", embedding=4, char_embedding=3, char_hidden=3, word_dropout=0.3, **NOISE)
    return Tagger.of(data, config), data.collate([data["train"][i] for i in range(7)])


def forecaster(together: bool) -> tuple[Any, Any]:
    values = torch.rand(60, 2)
    values[::7] = torch.nan
    data = Series(values, torch.rand(60, 1), context=6, horizon=3, planned=torch.rand(60, 2))
    config = ForecasterConfig(together=together, patch=2, input_dropout=0.3, **NOISE)
    return Forecaster.of(data, config), data.collate([data["train"][i] for i in range(7)])


def translator(**settings: Any) -> tuple[Any, Any]:
    data = backwards(60)
    model = EncoderDecoder(data.source, data.target, **{"embedding": 4, **NOISE, **settings})
    return model, data.collate([data["train"][i] for i in range(7)])


def transcriber() -> tuple[Any, Any]:
    lengths = torch.tensor([20, 13, 17, 12, 19])
    labels, label_lengths = torch.randint(3, (5, 3)), torch.tensor([3, 2, 1, 2, 1])
    model = Transcriber(Vocabulary("abc"), mels=4, stacked=2, rate=1000, **NOISE)
    return model, TranscribedBatch(torch.randn(20, 5, 4).double(), lengths, labels, label_lengths)


def generator() -> tuple[Any, Any]:
    data = Conditions([("up", "abcd"), ("down", "dc"), ("same", "bbb")] * 3, [("up", "abcd")])
    model = Generator(data.labels, data.vocabulary, embedding=4, **NOISE)
    return model, data.collate([data["train"][i] for i in range(7)])


def strokes() -> tuple[Any, Any]:
    found: list[tuple[str, Any]] = [("line", [[[0, 0], [1, i % 3], [2, 1]][: 2 + i % 2]]) for i in range(8)]
    data = Strokes({"train": found, "valid": found}, StrokesConfig(tolerance=0.1))
    return Generator(data.labels, None, **NOISE), data.collate([data["train"][i] for i in range(7)])


KINDS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "language-model": language_model,
    "language-model, locked": lambda: language_model(locked=True, embedding_dropout=0.2),
    "classifier": classifier,
    "tagger": tagger,
    "forecaster": lambda: forecaster(together=False),
    "forecaster, together": lambda: forecaster(together=True),
    "translator": lambda: translator(teacher_forcing=0.3),
    "translator, input feeding": lambda: translator(input_feeding=True, context="attention", **STEPWISE),
    "transcriber": transcriber,
    "generator": generator,
    "strokes": strokes,
}


def of_all(model: Any, batch: Any, world: int) -> tuple[list[float], list[Tensor], list[Tensor]]:
    """Return (the sums of losses and figures over the processes, their gradients, what each could draw next)."""
    numbers, next_draws = torch.zeros(()), []
    model.zero_grad()
    before = {name: value.clone() for name, value in model.named_buffers()}
    for rank in range(world):
        model.load_state_dict(before, strict=False)
        torch.manual_seed(5)
        loss = Ranks(rank, world).loss(model, batch, None, CPU)
        numbers = numbers + torch.tensor([float(loss.total.detach()), loss.count, *sum(loss.sums.values(), ())])
        if loss.count:
            torch.autograd.backward(loss.mean * loss.count)
        next_draws.append(torch.rand(3))
    model.load_state_dict(before, strict=False)
    return numbers.tolist(), [p.grad.clone() for p in model.parameters() if p.grad is not None], next_draws


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_the_losses_of_all_processes_are_that_of_one(kind: str, training: bool) -> None:
    torch.manual_seed(0)
    model, batch = KINDS[kind]()
    model = model.double().train(training)
    floats = {n: t for n, t in vars(batch).items() if isinstance(t, Tensor) and t.is_floating_point()}
    batch = replace(batch, **{name: t.double() for name, t in floats.items()})
    numbers, gradients, (draws,) = of_all(model, batch, 1)
    for world in (2, 3, 9):  # of 9, some have no sequence
        found, found_gradients, found_draws = of_all(model, batch, world)
        assert found == pytest.approx(numbers, rel=1e-5)  # of float32
        for a, b in zip(found_gradients, gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
        assert all(torch.equal(d, draws) for d in found_draws)


class Shaken(Cell):
    """A cell with noise of its own, for each step and for each sequence."""

    h = state(H)
    jitter, keep = noise(H), mask(H, p=0.25, per="sequence")
    W = param(H, I)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(x @ self.W.T + h * self.keep) + 0.1 * self.jitter


def test_layers_of_an_uneven_share() -> None:
    layers = [
        Recurrent(Shaken(4, 5)),
        Recurrent(VariationalDropout(WeightDrop(Zoneout(cells.LSTM(4, 5), h=0.4), 0.3), inputs=0.3, recurrence=0.3)),
        Recurrent(Stack([cells.GRU(4, 5), cells.GRU(5, 5)], dropout=0.4)),
    ]
    x = torch.randn(6, 7, 4)
    for layer in layers:
        torch.manual_seed(1)
        whole, _ = layer(x)
        for start, stop in ((0, 2), (2, 3), (3, 7)):
            torch.manual_seed(1)
            with rows_of_batch(Rows(start, stop, 7)):
                part, _ = layer(x[:, start:stop])
            torch.testing.assert_close(part, whole[:, start:stop], rtol=1e-5, atol=1e-6)


def test_several_rows_of_a_sequence_are_drawn_together() -> None:
    whole = torch.arange(12)[:, None]
    with rows_of_batch(Rows(2, 3, 4)):  # one sequence of 4, each of 3 rows
        assert drawn(lambda *shape: whole.expand(shape), (3, 1)).flatten().tolist() == [6, 7, 8]
    assert drawn(lambda *shape: torch.ones(shape), (3, 1)).shape == (3, 1)


def test_a_batch_that_cannot_be_shared() -> None:
    with pytest.raises(OptionError, match="batch is 6, shared by 4 processes; expected a multiple of 4"):
        Ranks(0, 4).check(6)
    with pytest.raises(OptionError, match="a batch is str; several processes share an everloop"):
        Ranks(0, 4).loss(language_model()[0], "text", None, CPU)


def test_how_as_many_processes_are_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert Ranks(0, 1).command == "everloop"
    assert Ranks(0, 4).command == "torchrun --nproc-per-node 4 -m everloop"
    assert Ranks(0, 8).command == "torchrun … -m everloop"  # on two machines
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert Ranks(0, 4).command == "torchrun … -m everloop"
