"""The transcriber: what it computes, that it learns, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from everloop.data import Vocabulary
from everloop.data.datasets.digits import DigitsConfig, DigitStrings
from everloop.data.datasets.transcribed import TranscribedBatch
from everloop.data.frames import FrameConfig
from everloop.data.pen import pen_frames
from everloop.decode.generate import Beam, generate
from everloop.errors import DataError, OptionError
from everloop.models import load
from everloop.models.transcriber import Transcriber, distance
from everloop.train import train
from tests.data.test_audio import digit_recordings


def clips(count: int = 3, mels: int = 5) -> TranscribedBatch:
    lengths = torch.tensor([20, 13, 17][:count])
    labels, label_lengths = torch.tensor([[0, 1, 2], [2, 2, 0], [1, 0, 0]])[:count], torch.tensor([3, 2, 1])[:count]
    frames = torch.randn(20, count, mels).double()
    frames[torch.arange(20)[:, None] >= lengths] = 0
    return TranscribedBatch(frames, lengths, labels, label_lengths)


def small(stacked: int = 2) -> Transcriber:
    torch.manual_seed(0)
    return Transcriber(Vocabulary("abc"), hidden=6, layers=2, dropout=0.0, mels=5, stacked=stacked, rate=1000).double()


@pytest.mark.parametrize("stacked", [1, 2, 3])
@torch.no_grad()
def test_padding_changes_nothing(stacked: int) -> None:
    model, batch = small(stacked), clips()
    together, total = model(batch.frames, batch.lengths), 0.0
    for b in range(3):
        n = int(batch.lengths[b])
        alone, steps = model(batch.frames[:n, b : b + 1], batch.lengths[b : b + 1])
        assert int(steps) == -(-n // stacked) == len(alone)
        torch.testing.assert_close(alone[:, 0], together[0][: len(alone), b], rtol=1e-10, atol=1e-12)
        labels, label_lengths = batch.labels[b : b + 1], batch.label_lengths[b : b + 1]
        one = TranscribedBatch(batch.frames[:n, b : b + 1], batch.lengths[b : b + 1], labels, label_lengths)
        total += float(model.loss(one).total)
    assert float(model.loss(batch).total) == pytest.approx(total, rel=1e-10)
    assert model.loss(batch).count == 6


@torch.no_grad()
def test_the_accuracy_counts_errors() -> None:
    model, batch = small().eval(), clips()
    heard = model.best_paths(*model(batch.frames, batch.lengths))
    said = [[0, 1, 2], [2, 2], [1]]
    errors = sum(distance(a, b) for a, b in zip(said, heard, strict=True))
    assert model.loss(batch).sums["accuracy"] == (6.0 - errors, 6)
    assert "accuracy" not in model.train().loss(batch).sums


@pytest.mark.parametrize(
    ("a", "b", "n"), [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("ab", "ba", 2)]
)
def test_distance(a: str, b: str, n: int) -> None:
    assert distance(a, b) == distance(b, a) == n


def test_a_recording_too_short_for_its_text_is_named() -> None:
    batch = clips(2)
    short = TranscribedBatch(batch.frames[:4], torch.tensor([4, 4]), batch.labels, batch.label_lengths)
    with pytest.raises(DataError, match=r"needs 3 steps, its recording has\s+2"):
        small().loss(short)
    model = small(1)
    model.loss(short)
    with pytest.raises(DataError, match="2 characters needs 3 steps"):
        model.loss(
            TranscribedBatch(
                batch.frames[:2], torch.tensor([2, 2]), torch.tensor([[2, 2], [0, 1]]), torch.tensor([2, 2])
            )
        )


def test_it_learns_tones_and_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(3)
    frames = FrameConfig(rate=8000, mels=20)
    data = DigitStrings({"ann": digit_recordings()}, DigitsConfig(split=(0.6, 0.2, 0.2), strings=64, held=32), frames)
    model = Transcriber(data.vocabulary, hidden=24, layers=1, dropout=0.0, rate=8000, mels=20, stacked=2)
    run = train(model, data, steps=350, batch=8, lr=1e-2, warmup=10, validate=50, out=tmp_path / "run")
    assert run.best is not None
    assert run.best.means["accuracy"] > 0.9
    again = load(run)
    heard = generate(again, [samples for samples, _ in data["test"]], Beam(6))
    right = sum(h[0].text == text for h, (_, text) in zip(heard, data["test"], strict=True))
    assert right / 32 > 0.7


def test_wrong_settings_are_named() -> None:
    for settings, message in (
        ({"hiden": 3}, "did you mean 'hidden'"),
        ({"hop": 0.05}, "hop"),
        ({"stacked": 0}, "stacked is 0"),
        ({"dropout": 1.0}, "below 1"),
    ):
        with pytest.raises(OptionError, match=message):
            Transcriber(Vocabulary("ab"), **settings)


@torch.no_grad()
def test_a_pen_is_read_as_strokes_or_as_frames() -> None:
    strokes = [[[0, 9], [5, 9], [2, 0]], [[1, 5], [4, 5]]]
    model = Transcriber(Vocabulary("abc"), hidden=6, reads="pen", spacing=0.1, stacked=2).eval()
    assert model.pen
    frames = pen_frames(strokes, 0.1)
    (one, other), lengths = model.read_in([strokes, frames])[0].unbind(1), model.read_in([strokes])[1]
    assert one.equal(other)
    assert one.equal(frames)
    assert lengths.tolist() == [len(frames)]
    assert [str(answers[0]) for answers in generate(model, [strokes], Beam(4))] == [
        str(answers[0]) for answers in generate(model, [frames], Beam(4))
    ]
    assert not small().pen
    for wrong in ({"reads": "ink"}, {"spacing": 0.0}, {"spacing": float("inf")}):
        with pytest.raises(OptionError, match=f"{next(iter(wrong))} is"):
            Transcriber(Vocabulary("abc"), **wrong)
