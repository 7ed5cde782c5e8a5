"""Documents in a stream: the state begins anew at their borders, in training, validation, score and sampling."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everloop.data import Text, Window
from everloop.decode import Greedy, Sampling, generate, sample, tree
from everloop.kinds.language_model import KIND
from everloop.models import LanguageModel
from everloop.models.model import detach
from everloop.train import evaluate

DOCUMENTS = ["abcab", "b", "", "cabbage a cab", "ab", "c" * 9]
STREAM = "##" + "##".join(DOCUMENTS) + "##"
SHAPES: dict[str, dict[str, Any]] = {
    "gru": {"cell": "gru", "layers": 2},
    "lstm": {"cell": "lstm"},
    "tar": {"cell": "elman", "activation_regularization": 2.0, "temporal_regularization": 3.0},
}


def text_of(documents: str = STREAM, split: tuple[float, float, float] = (1, 0, 0)) -> Text:
    return Text.from_string(documents, documents="##", split=split, min_freq=1)


def model_of(name: str, target: str | None = None) -> LanguageModel:
    torch.manual_seed(1)
    model = LanguageModel(text_of().vocabulary, hidden=5, embedding=3, **{"layers": 1, **SHAPES[name]}).double()
    model.recurrent.target = target
    return model


def by_document(model: LanguageModel, window: Window, states: list[Any]) -> tuple[Tensor, Tensor, Tensor, list[Any]]:
    """Return (nats, squares, squares of changes, states) of a window, each part of a document run by itself."""
    end, nats, squares, changes, after = model.vocabulary.document_end, [], [], [], []
    for row, carried in enumerate(states):
        x, y = window.x[:, row], window.y[:, row]
        borders = [0, *(i for i in range(1, len(x)) if x[i] == end), len(x)]
        for begin, stop in pairwise(borders):
            state = None if x[begin] == end else carried
            outputs, carried = model.recurrent(model.embedding(x[begin:stop, None]), state)
            nats.append(F.cross_entropy(model.head(outputs[:, 0]), y[begin:stop], reduction="sum"))
            squares.append(outputs.square().flatten())
            changes.append((outputs[1:] - outputs[:-1]).square().flatten())
        after.append(detach(carried))
    return torch.stack(nats).sum(), torch.cat(squares), torch.cat(changes), after


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    ("target", "batch", "length"),
    [(None, 1, 100), (None, 1, 7), (None, 2, 3), ("eager", 2, 3), (None, 3, 5), (None, 1, 1)],
)
def test_losses_and_gradients_are_those_of_each_document_by_itself(
    name: str, target: str | None, batch: int, length: int
) -> None:
    model, reference = model_of(name, target), model_of(name, "eager")
    windows = text_of().epoch("train", 0, batch=batch, length=min(length, 36 // batch))
    state: Any = None
    states: list[Any] = [None] * batch
    borders = 0
    for window in windows:
        borders += int(window.x.eq(model.vocabulary.document_end or -1).sum())
        loss = model.loss(window, state)
        state = detach(loss.state)
        found = torch.autograd.grad(loss.mean, list(model.parameters()))
        nats, squares, changes, states = by_document(reference, window, states)
        mean = nats / window.count
        if name == "tar":
            mean = mean + 2.0 * squares.mean() + (3.0 * changes.mean() if len(changes) else 0.0)
        torch.testing.assert_close(loss.total, nats, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(loss.mean, mean, rtol=1e-9, atol=1e-9)
        for a, b in zip(found, torch.autograd.grad(mean, list(reference.parameters())), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    assert borders >= 4


@pytest.mark.parametrize("length", [1, 2, 5, 100])
def test_validation_is_the_sum_of_scores(length: int) -> None:
    model = model_of("gru")
    text = Text.from_string(STREAM * 2, vocabulary=model.vocabulary, split=(0.5, 0.5, 0))
    whole = evaluate(model, text, "valid", batch=1, length=length)
    each = [model.score(f"{document}##") for document in DOCUMENTS]
    # the stream begins with the separator of the text before it, which has no state
    assert whole.count == sum(score.count for score in each)
    assert whole.nats == pytest.approx(sum(score.nats for score in each), rel=1e-9)
    alone = pytest.approx(model.score("ab").nats, rel=1e-9)
    assert model.score("ab", "cabbage##").nats == alone != model.score("ab", "cabbage").nats


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_a_step_that_reads_a_separator_forgets(name: str) -> None:
    model = model_of(name).eval()
    end = model.vocabulary.document_end
    symbols = torch.tensor([4, end, end])
    with torch.no_grad():
        _, state = model.begin(model.vocabulary.encode("cabcabcab").view(3, 3).long())
        logits, _ = model.step(symbols, state)
        fresh, _ = model.step(symbols)
    torch.testing.assert_close(logits[1:], fresh[1:])
    assert not torch.allclose(logits[0], fresh[0])


def test_what_is_written_after_a_separator_knows_nothing_of_what_was_before() -> None:
    model = model_of("gru").eval()
    ways: list[Callable[[str], Any]] = [
        lambda prompt: sample(model, prompt, length=20, seed=3),
        lambda prompt: [text for text, _ in tree(model, prompt, width=2, depth=2).paths()],
        lambda prompt: round(generate(model, [prompt], Greedy(), length=9)[0][0].logp, 9),
    ]
    for way in ways:
        assert way("cabbage##") == way("##")
    assert ways[-1]("cabbage") != ways[-1]("##")


def test_a_drawn_separator_begins_a_document() -> None:
    model = model_of("gru").eval()
    end = model.vocabulary.document_end
    with torch.no_grad():
        model.head.weight.mul_(8.0)
        assert end is not None
        model.head.bias[end] += 2.0
    written = sample(model, "##", length=60, seed=0)
    first, *_, last = written.split("##")
    assert first != written
    drawn = [model.score(written).nats, sum(model.score(f"{part}##").nats for part in written.split("##")[:-1])]
    rest = model.score(last).nats if last else 0.0
    assert drawn[0] == pytest.approx(drawn[1] + rest)


def test_a_newline_alone_begins_a_document() -> None:
    model = model_of("gru").eval()
    assert KIND.sample is not None
    written = "".join(KIND.sample(model, "\n", Sampling(seed=3), 20))
    assert written == "##" + sample(model, "##", length=20, seed=3)


def test_a_text_of_one_document_is_read_as_ever() -> None:
    model = LanguageModel(Text.from_string("abcab", split=(1, 0, 0), min_freq=1).vocabulary, hidden=5)
    assert model.begins(torch.tensor([[1]])) is None
