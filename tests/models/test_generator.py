"""The generator: what it computes, that it learns, that symbols and strokes come back from a run folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from everloop.data.datasets.conditions import Conditions
from everloop.data.datasets.strokes import END, Strokes, StrokesBatch, StrokesConfig
from everloop.decode.generate import Beam, Sampling, generate
from everloop.decode.sketch import sketch
from everloop.errors import DataError, OptionError
from everloop.models import load
from everloop.models.generator import Generator
from everloop.models.mixture import Mixture
from everloop.train import train

WAYS: list[Literal["first", "every-step"]] = ["first", "every-step"]
WORDS = {"up": "abcd", "down": "dcba", "same": "bbb"}


def texts(count: int = 20) -> Conditions:
    return Conditions(list(WORDS.items()) * count, list(WORDS.items()))


def lines(count: int = 24) -> Strokes:
    """Return drawings of two kinds: a line to the right, and a corner that goes up; a little shaken."""
    chance = torch.Generator().manual_seed(0)
    found: list[tuple[str, Any]] = []
    for _ in range(count):
        shake = (torch.randn(6, generator=chance) * 0.02).tolist()
        found.append(("line", [[[shake[0], shake[1]], [1 + shake[2], shake[3]]]]))
        found.append(("corner", [[[shake[0], shake[1]], [1 + shake[2], shake[3]], [1 + shake[4], 1 + shake[5]]]]))
    return Strokes({"train": found, "valid": found[:8]}, StrokesConfig(tolerance=0.1))


@pytest.mark.parametrize("given", WAYS)
@torch.no_grad()
def test_steps_equal_the_whole_text(given: Literal["first", "every-step"]) -> None:
    data = texts(2)
    model = Generator(data.labels, data.vocabulary, hidden=6, layers=2, embedding=5, given=given).double().eval()
    batch = data.epoch("train", 0, batch=6)[0]
    whole, _ = model(batch.given, batch.inputs)
    logits, state = model.begin([data.labels[int(n)] for n in batch.given])
    for expected_logits, after in zip(whole, [*batch.inputs[1:], batch.inputs[0]], strict=True):
        torch.testing.assert_close(logits, expected_logits, rtol=1e-10, atol=1e-12)
        logits, state = model.step(after, state)
    expected = sum(
        -float(whole[: int(n), b].log_softmax(-1).gather(1, batch.targets[: int(n), b, None]).sum())
        for b, n in enumerate(batch.lengths)
    )
    loss = model.loss(batch)
    assert float(loss.total) == pytest.approx(expected, rel=1e-10)
    assert loss.count == int(batch.lengths.sum())


@pytest.mark.parametrize("given", WAYS)
def test_it_writes_what_was_asked_for(given: Literal["first", "every-step"], tmp_path: Path) -> None:
    data = texts()
    model = Generator(data.labels, data.vocabulary, hidden=16, embedding=8, dropout=0.0, given=given)
    train(model, data, steps=80, batch=10, lr=2e-2, warmup=5, validate=40, out=tmp_path / "run")
    again = load(tmp_path / "run")
    assert {label: h[0].text for label, h in zip(WORDS, generate(again, list(WORDS)), strict=True)} == WORDS
    assert {label: h[0].text for label, h in zip(WORDS, generate(again, list(WORDS), Beam(3)), strict=True)} == WORDS
    assert all(h[0].finished for h in generate(again, list(WORDS)))


@torch.no_grad()
def test_given_first_is_seen_at_the_first_step_only() -> None:
    data = texts(1)
    inputs = torch.tensor([[4], [0], [1]])
    for given in WAYS:
        model = Generator(data.labels, data.vocabulary, hidden=6, given=given).double().eval()
        _, state = model(torch.tensor([0]), inputs)
        one, _ = model(torch.tensor([1]), inputs, state)
        other, _ = model(torch.tensor([2]), inputs, state)
        assert bool(one.equal(other)) == (given == "first")
        assert not model(torch.tensor([1]), inputs)[0].equal(model(torch.tensor([2]), inputs)[0])


def test_captions_from_vectors(tmp_path: Path) -> None:
    vectors = {"up": torch.tensor([1.0, 0.0]), "down": torch.tensor([0.0, 1.0])}
    data = Conditions([(vectors[label], WORDS[label]) for label in vectors] * 10)
    model = Generator(data.given_size or (), data.vocabulary, hidden=12, embedding=8, dropout=0.0)
    train(model, data, steps=60, batch=10, lr=2e-2, warmup=5, out=tmp_path / "run")
    again = load(tmp_path / "run", "last")
    assert [h[0].text for h in generate(again, list(vectors.values()))] == ["abcd", "dcba"]
    with pytest.raises(DataError, match=r"expected \[2\]"):
        generate(again, [torch.zeros(3)])


@torch.no_grad()
def test_the_loss_of_strokes_is_density_and_pen() -> None:
    data = lines(2)
    model = Generator(data.labels, hidden=6, embedding=4, mixtures=3).double().eval()
    label, steps = data["train"][1]
    steps = steps.double()
    batch = StrokesBatch(torch.tensor([label]), steps[:, None], torch.tensor([len(steps)]))
    inputs = torch.cat([torch.tensor([[0, 0, END]]).double(), steps[:-1]])
    total, state = 0.0, None
    for before, step in zip(inputs, steps, strict=True):
        numbers, state = model(torch.tensor([label]), before.view(1, 1, 3), state)
        mixture = Mixture.of(numbers[0, 0, :18])
        total -= float(numbers[0, 0, 18:].log_softmax(-1)[int(step[2])])
        if step[2] != END:
            total -= float(mixture.log_density(step[:2]))
    loss = model.loss(batch)
    assert float(loss.total) == pytest.approx(total, rel=1e-10)
    assert loss.count == len(steps)


def test_it_draws_what_was_asked_for(tmp_path: Path) -> None:
    data = lines()
    model = Generator(data.labels, hidden=24, embedding=8, mixtures=2, dropout=0.0)
    train(model, data, steps=150, batch=16, lr=1e-2, warmup=5, validate=75, out=tmp_path / "run")
    again = load(tmp_path / "run")
    drawn = sketch(again, ["line", "corner"] * 5, temperature=0.2, seed=0, length=20)
    assert all(one.finished for one in drawn)
    for one in drawn:
        ends = one.lines[0][-1]
        assert len(one.lines) == 1
        assert abs(float(ends[0]) - 1) < 0.3
        assert (float(ends[1]) > 0.7) == (one.given == "corner")
    assert [one.steps.tolist() for one in drawn] == [
        one.steps.tolist() for one in sketch(again, ["line", "corner"] * 5, temperature=0.2, seed=0, length=20)
    ]
    ((first, second),) = generate(again, ["line"], Sampling(temperature=0.5, num_samples=2, seed=1))
    assert first.steps.tolist() != second.steps.tolist()
    assert len(generate(again, ["line"])[0]) == 1
    with pytest.raises(OptionError, match="drawn greedily"):
        generate(again, ["line"], Beam(3))


def test_wrong_calls_are_named() -> None:
    data = texts(1)
    model = Generator(data.labels, data.vocabulary, hidden=4)
    with pytest.raises(DataError, match="did you mean 'down'"):
        generate(model, ["dwn"])
    with pytest.raises(OptionError, match="writes symbols"):
        sketch(model, ["up"])
    with pytest.raises(OptionError, match="draws strokes"):
        Generator(("a",), hidden=4).begin(["a"])
    for settings, message in (({"given": "frist"}, "did you mean 'first'"), ({"mixtures": 0}, "mixtures is 0")):
        with pytest.raises(OptionError, match=message):
            Generator(("a",), None, "lstm", **settings)
    assert math.isfinite(float(model.loss(data.epoch("train", 0, batch=3)[0]).total.detach()))
