"""Pictures in front of recurrent layers: the encoder, captions from pictures, a label for each frame of a film."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everloop.data import Conditions, Tagged
from everloop.data.pictures import PictureSize
from everloop.decode.generate import Beam, generate
from everloop.errors import DataError, OptionError
from everloop.models import Generator, Tagger, TaggerConfig, load
from everloop.models.generator import Way
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


def maps_of(weights: dict[str, Tensor], pictures: Tensor, levels: int, residual: int) -> Tensor:
    """Return what convolutions make of pictures [B, height, width, channels], written once more from the papers."""
    maps, at = pictures.double().movedim(3, 1) / 255, 0

    def block(names: list[str], read: Tensor, stride: int) -> Tensor:
        convolution, norm = ([weights[f"{name}.{n}"] for n in ("weight", "bias")] for name in names)
        found = F.conv2d(read, convolution[0], convolution[1], stride, 1)
        groups = found.reshape(len(found), -1, 8, *found.shape[2:]) if found.shape[1] % 8 == 0 else found[:, None]
        mean, var = groups.mean((2, 3, 4), keepdim=True), groups.var((2, 3, 4), keepdim=True, correction=0)
        normal = ((groups - mean) / (var + 1e-5).sqrt()).flatten(1, 2)
        scale, shift = (numbers[:, None, None] for numbers in norm)
        return (normal * scale + shift).clamp(min=0)

    for level in range(levels):
        maps, at = block([f"convolutions.{at + n}" for n in (0, 1)], maps, 2), at + 3
        for _ in range(residual if level else 0):
            maps, at = maps + block([f"convolutions.{at}.convolution.{n}" for n in (0, 1)], maps, 1), at + 1
    return maps


@pytest.mark.parametrize("residual", [0, 1, 2])
@torch.no_grad()
def test_residual_convolutions_follow_each_but_the_first(residual: int) -> None:
    torch.manual_seed(residual)
    encoder = PictureEncoder(PictureSize(9, 6, 2), (8, 3, 16), 4, residual).double()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    pictures = torch.randint(0, 256, (3, 9, 6, 2), dtype=torch.uint8)
    maps = maps_of(encoder.state_dict(), pictures, 3, residual)
    expected = maps.flatten(1) @ encoder.linear.weight.T + encoder.linear.bias
    torch.testing.assert_close(encoder(pictures), expected, rtol=1e-9, atol=1e-9)
    numbers = encoder(pictures.transpose(1, 2).contiguous().transpose(1, 2))
    torch.testing.assert_close(numbers, expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_each_symbol_looks_at_the_places_of_the_picture() -> None:
    torch.manual_seed(1)
    data = Conditions(list(zip(halves(), TEXTS, strict=True)))
    assert data.given_size is not None
    model = Generator(
        data.given_size, data.vocabulary, hidden=6, embedding=5, channels=(4, 3), residual=1, given="attention"
    )
    model = model.double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    batch = data.epoch("train", 0, batch=2)[0]
    found, _ = model(batch.given, batch.inputs)
    weights = model.state_dict()
    assert model.embedding is not None
    encoder = {name.removeprefix("condition."): weight for name, weight in weights.items()}
    maps = maps_of(encoder, batch.given, 2, 1)
    for row, numbers in enumerate(maps.flatten(2)):
        seen = numbers.T + weights["look.where"][:, 0]
        vector = numbers.flatten() @ weights["condition.linear.weight"].T + weights["condition.linear.bias"]
        x = torch.cat([model.embedding(batch.inputs[:, row]), vector.expand(len(batch.inputs), -1)], 1)
        y = model.recurrent(x[:, None])[0][:, 0]
        looks = (y @ weights["look.attention.key.weight"] @ seen.T).softmax(1)
        steps = int(batch.lengths[row])
        told = model.weights(batch.given[row], model.text(batch.inputs[1:steps, row].tolist()))
        torch.testing.assert_close(told.flatten(1), looks[:steps], rtol=1e-9, atol=1e-9)
        both = torch.cat([y, looks @ seen], 1)
        features = torch.tanh(both @ weights["look.readout.weight"].T + weights["look.readout.bias"])
        expected = features @ weights["head.weight"].T + weights["head.bias"]
        torch.testing.assert_close(found[:, row], expected, rtol=1e-9, atol=1e-9)
    mean = F.cross_entropy(found[batch.mask], batch.targets[batch.mask])
    torch.testing.assert_close(model.loss(batch).mean, mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [PictureSize(13, 32), PictureSize(28, 21)])
def test_the_middle_of_what_a_place_sees_is_where_grid_and_stride_say(size: PictureSize) -> None:
    encoder = PictureEncoder(size, (2, 2, 2), 3).double()
    plain = torch.nn.Sequential(*(layer for layer in encoder.convolutions if isinstance(layer, torch.nn.Conv2d)))
    for layer in plain:
        torch.nn.init.ones_(layer.weight)  # type: ignore[arg-type]
    picture = torch.ones(1, 1, size.height, size.width, dtype=torch.float64, requires_grad=True)
    maps = plain(picture)
    assert encoder.grid == maps.shape[2:]
    for i, j in ((0, 0), (1, 2), (encoder.grid[0] - 1, encoder.grid[1] - 1)):
        (slopes,) = torch.autograd.grad(maps[0, 0, i, j], picture, retain_graph=True)
        seen = slopes[0, 0].nonzero()
        reach = encoder.stride - 1  # pixels to each side, as far as the picture goes
        for axis, (place, pixels) in enumerate(zip((i, j), (size.height, size.width), strict=True)):
            middle = place * encoder.stride
            assert int(seen[:, axis].min()) == max(0, middle - reach)
            assert int(seen[:, axis].max()) == min(pixels - 1, middle + reach)


def test_what_has_no_places_cannot_be_looked_at() -> None:
    with pytest.raises(OptionError, match="given is 'every-step'; only a generator with given 'attention' has weights"):
        Generator(PictureSize(4, 4), Conditions([("x", "ab")]).vocabulary).weights(torch.zeros(4, 4, 1), "a")
    words = Conditions([("x", "ab")]).vocabulary
    for given, vocabulary in ((["x"], words), (3, words), (PictureSize(4, 4), None)):
        with pytest.raises(OptionError, match="given 'attention' is for texts of pictures"):
            Generator(given, vocabulary, given="attention")
    with pytest.raises(OptionError, match="unknown way to give x 'attend'"):
        Generator(PictureSize(4, 4), words, given="attend")
    with pytest.raises(OptionError, match="residual is -1; expected 0 or more"):
        TaggerConfig(residual=-1)


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


@pytest.mark.parametrize("given", get_args(Way))
@torch.no_grad()
def test_steps_equal_the_whole_caption(given: Way) -> None:
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
