"""Pictures in front of recurrent layers: the encoder, captions from pictures, a label for each frame of a film."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from everloop.data import Conditions, Tagged
from everloop.data.pictures import PictureSize
from everloop.decode.generate import Beam, generate
from everloop.errors import DataError, OptionError
from everloop.models import Generator, Tagger, TaggerConfig, load
from everloop.models.picture_encoder import PictureEncoder
from everloop.train import evaluate, train

TEXTS = ["abcd", "dcba"]


def halves(side: int = 6) -> list[Tensor]:
    """Return two pictures: bright above, bright on the left."""
    pictures = [torch.zeros(side, side, 1, dtype=torch.uint8) for _ in range(2)]
    pictures[0][: side // 2] = 255
    pictures[1][:, : side // 2] = 255
    return pictures


def by_hand(encoder: PictureEncoder, picture: Tensor) -> Tensor:
    """Return the vector of a picture by loops over its pixels."""
    maps = picture.double().numpy().transpose(2, 0, 1) / 255
    convolution, norm = encoder.convolutions[0], encoder.convolutions[1]
    weight, bias = (convolution.get_parameter(n).detach().numpy() for n in ("weight", "bias"))
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)))
    high, wide = -(-maps.shape[1] // 2), -(-maps.shape[2] // 2)
    found = np.zeros((len(weight), high, wide))
    for row in range(high):
        for column in range(wide):
            seen = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            found[:, row, column] = (weight * seen).sum((1, 2, 3)) + bias
    scale, shift = (norm.get_parameter(n).detach().numpy()[:, None, None] for n in ("weight", "bias"))
    found = (found - found.mean()) / np.sqrt(found.var() + 1e-5) * scale + shift
    linear = encoder.linear
    return linear.weight.detach() @ torch.from_numpy(np.maximum(found, 0).ravel()) + linear.bias.detach()


@pytest.mark.parametrize(("height", "width", "channels"), [(1, 1, 1), (2, 3, 3), (5, 4, 1)])
def test_the_encoder_is_a_convolution_by_hand(height: int, width: int, channels: int) -> None:
    torch.manual_seed(height)
    encoder = PictureEncoder(PictureSize(height, width, channels), (8,), 3).double()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    picture = torch.randint(0, 256, (height, width, channels), dtype=torch.uint8)
    torch.testing.assert_close(encoder(picture[None])[0], by_hand(encoder, picture), rtol=1e-9, atol=1e-9)


def test_each_picture_of_a_batch_is_read_alone() -> None:
    encoder = PictureEncoder(PictureSize(5, 7, 3), (4, 16), 6).double()
    pictures = torch.randint(0, 256, (3, 2, 5, 7, 3), dtype=torch.uint8)
    found = encoder(pictures)
    assert found.shape == (3, 2, 6)
    torch.testing.assert_close(found[1, 1], encoder(pictures[1, 1][None])[0], rtol=1e-10, atol=1e-12)
    assert str(encoder.block()) == "convolutions 105 → 6"


def test_channels_are_checked() -> None:
    for channels in ((), (4, 0)):
        with pytest.raises(OptionError, match="channels is"):
            TaggerConfig(channels=channels)
        with pytest.raises(OptionError, match="channels is"):
            Generator(PictureSize(4, 4), None, channels=channels)


@pytest.mark.parametrize("given", ["first", "every-step"])
@torch.no_grad()
def test_steps_equal_the_whole_caption(given: Literal["first", "every-step"]) -> None:
    data = Conditions(list(zip(halves(), TEXTS, strict=True)))
    assert data.given_size is not None
    model = Generator(data.given_size, data.vocabulary, hidden=6, embedding=5, channels=(4,), given=given)
    model = model.double().eval()
    batch = data.epoch("train", 0, batch=2)[0]
    whole, _ = model(batch.given, batch.inputs)
    logits, state = model.begin([*batch.given])
    for expected, after in zip(whole, [*batch.inputs[1:], batch.inputs[0]], strict=True):
        torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
        logits, state = model.step(after, state)


@torch.no_grad()
def likeliest(model: Generator, pictures: list[Tensor]) -> list[str]:
    """Return what a model writes in at most five steps, if it takes the likeliest symbol at each."""
    assert model.vocabulary is not None
    end, (logits, state) = len(model.vocabulary), model.begin(pictures)
    written: list[list[int]] = [[] for _ in pictures]
    for _ in range(5):
        best = logits.argmax(1)
        for symbols, symbol in zip(written, best.tolist(), strict=True):
            if end not in symbols:
                symbols.append(symbol)
        logits, state = model.step(best, state)
    return [model.vocabulary.decode([symbol for symbol in symbols if symbol != end]) for symbols in written]


@torch.no_grad()
def surprise(model: Generator, pairs: list[tuple[Tensor, str]]) -> float:
    """Return the mean negative log-probability of the symbols of captions and of their ends, step by step."""
    assert model.vocabulary is not None
    nats = []
    for picture, text in pairs:
        logits, state = model.begin([picture])
        for symbol in [*model.vocabulary.encode(text).tolist(), len(model.vocabulary)]:
            nats.append(-float(logits[0].log_softmax(0)[symbol]))
            logits, state = model.step(torch.tensor([symbol]), state)
    return sum(nats) / len(nats)


def test_captions_from_pictures(tmp_path: Path) -> None:
    pictures = halves()
    pairs = list(zip(pictures, TEXTS, strict=True))
    data = Conditions(pairs * 10, pairs)
    assert data.given_size is not None
    model = Generator(data.given_size, data.vocabulary, hidden=16, embedding=8, channels=(8,), dropout=0.0)
    train(model, data, steps=2, batch=10, out=tmp_path / "run")
    again = load(tmp_path / "run", "last")
    assert again.given_size == PictureSize(6, 6)
    loss = evaluate(again, data, "valid").loss
    assert loss == pytest.approx(surprise(again, pairs), rel=1e-4)
    exchanged = list(zip(pictures, TEXTS[::-1], strict=True))
    assert loss != pytest.approx(surprise(again, exchanged), rel=1e-4), "the picture changes what is likely"
    expected = likeliest(again, pictures)
    assert [h[0].text for h in generate(again, pictures, length=5)] == expected
    assert [h[0].text for h in generate(again, pictures, Beam(1), length=5)] == expected
    assert [len(h) for h in generate(again, pictures, Beam(3, n_best=3), length=5)] == [3, 3]
    with pytest.raises(DataError, match=r"reads pictures of 6×6×1; got a tensor \[6, 5, 1\]"):
        generate(again, [torch.zeros(6, 5, 1)])
    with pytest.raises(DataError, match="reads pictures of 6×6×1; got 'up'"):
        generate(again, ["up"])
    (tmp_path / "run" / "given.json").write_text('{"height": 6, "width": "6", "channels": 1}')
    with pytest.raises(Exception, match="expected height, width and channels of a picture as whole numbers"):
        load(tmp_path / "run", "last")


def test_each_frame_of_a_film_gets_its_label(tmp_path: Path) -> None:
    pictures, chance = torch.stack(halves()), torch.Generator().manual_seed(0)
    films = [torch.randint(0, 2, (n,), generator=chance) for n in (1, 2, 7, 5) * 8]
    pairs = [(pictures[labels], labels) for labels in films]
    data = Tagged({"train": pairs, "valid": pairs[:8]})
    model = Tagger.of(data, TaggerConfig(hidden=8, embedding=8, channels=(8,)))
    assert model.target == "frame"
    train(model, data, steps=2, batch=8, validate=2, out=tmp_path / "run")
    again = load(tmp_path / "run")
    assert again.features == PictureSize(6, 6)
    found = evaluate(again, data, "valid")
    sure = [p[label] for x, y in pairs[:8] for p, label in zip(again.probabilities([x])[0].tolist(), y, strict=True)]
    assert found.loss == pytest.approx(-sum(map(math.log, sure)) / len(sure), rel=1e-4)
    tags = [again.labels.encode(tags) for tags in again.tag([x for x, _ in pairs[:8]])]
    right = sum(
        a == b for some, (_, labels) in zip(tags, pairs, strict=False) for a, b in zip(some, labels, strict=True)
    )
    assert found.means["accuracy"] == pytest.approx(right / sum(map(len, tags)))
    torch.testing.assert_close(
        again.probabilities([pairs[2][0]])[0], again.probabilities([pairs[3][0], pairs[2][0]])[1]
    )
    assert len(again.tag([pairs[0][0]])[0]) == 1


def test_frames_that_are_padding_change_nothing() -> None:
    labels = torch.tensor([0, 1, 1])
    data = Tagged({"train": [(torch.stack(halves())[labels], labels), (torch.stack(halves()), torch.tensor([0, 1]))]})
    model = Tagger.of(data, TaggerConfig(hidden=5, embedding=4, channels=(4, 4))).double().eval()
    both = data.collate([data["train"][0], data["train"][1]])
    alone = [data.collate([item]) for item in data["train"]]
    expected = sum(float(model.loss(batch).total.detach()) for batch in alone)
    assert float(model.loss(both).total.detach()) == pytest.approx(expected, rel=1e-10)
