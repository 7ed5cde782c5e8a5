"""Every dataset: items by index, the same batches from a DataLoader as in training, and copies in other processes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from everloop.data import (
    Conditions,
    DigitsConfig,
    DigitStrings,
    Examples,
    ExamplesConfig,
    FrameConfig,
    GlyphsConfig,
    GlyphStrings,
    Handwriting,
    Parallel,
    Part,
    Recordings,
    Series,
    Strokes,
    Tagged,
    TaggedConfig,
    Text,
)
from everloop.data.dataset import Dataset, hold_out, with_held_out
from everloop.data.lazy import Array
from everloop.data.readers.strokes import Drawing
from everloop.errors import OptionError
from tests.data.test_bounded import tensors

FRAMES = FrameConfig(rate=8000, mels=8)
LINES = [" ".join("abcdefg"[(i * k) % 7] for k in range(1, 3 + i % 9)) for i in range(40)]


def sound(n: int) -> Tensor:
    return torch.sin(torch.arange(600 + 37 * n) * 0.01 * (n + 1))


def text() -> Text:
    return Text.from_string("\n".join(LINES * 20), split=(0.6, 0.4, 0))


def examples() -> Examples:
    part = Part(LINES.__getitem__, ["xy"[i % 2] for i in range(40)], True, "mine")
    return Examples({"train": part, "valid": part.take(np.arange(0, 40, 3))})


def images() -> Examples:
    part = Part(list(torch.rand(12, 6, 5)).__getitem__, ["xy"[i % 2] for i in range(12)], False, "mine")
    return Examples({"train": part, "valid": part}, ExamplesConfig(shift=2))


def tagged() -> Tagged:
    pairs = [(line.split(), [word.upper() for word in line.split()]) for line in LINES]
    return Tagged({"train": pairs, "valid": pairs[:9]})


def chorales() -> Tagged:
    pairs = [((roll := torch.eye(88)[40 + torch.arange(3 + i) % 9])[:-1], roll[1:]) for i in range(12)]
    return Tagged({"train": pairs, "valid": pairs[3:]}, TaggedConfig(transpose=5))


def parallel() -> Parallel:
    pairs = [(line, line[::-1]) for line in LINES]
    return Parallel(pairs, pairs[:7])


def conditions() -> Conditions:
    pairs = [("pq"[i % 2], line) for i, line in enumerate(LINES)]
    return Conditions(pairs, pairs[:7])


def vectors() -> Conditions:
    pairs = [(torch.full((3,), float(i)), line) for i, line in enumerate(LINES)]
    return Conditions(pairs, pairs[:7])


def strokes() -> Strokes:
    drawings = [("01"[i % 2], [[[n, n * n % (i + 2)] for n in range(4 + i)]]) for i in range(12)]
    return Strokes({"train": drawings, "valid": drawings[5:]})


def recordings() -> Recordings:
    clips = [(sound(n), "one two"[: n + 1]) for n in range(8)]
    return Recordings({"train": clips, "valid": clips[2:]}, FRAMES)


def digits() -> DigitStrings:
    found = {digit: [sound(n + int(digit)) for n in range(8)] for digit in "012"}
    return DigitStrings({"ann": found}, DigitsConfig(strings=9, held=5, split=(0.5, 0.25, 0.25)), FRAMES)


def drawn(count: int) -> list[Drawing]:
    parts = [("train", "ann"), ("valid", "bob")]
    strokes = [[[[n, n * n % (i + 2)] for n in range(4 + i)]] for i in range(count)]
    return [Drawing(one, "01"[i % 2], *part) for part in parts for i, one in enumerate(strokes)]


def handwriting() -> Handwriting:
    return Handwriting(drawn(9), 0.1)


def glyphs() -> GlyphStrings:
    return GlyphStrings(drawn(5), 0.1, GlyphsConfig(strings=9, held=5))


def series() -> Series:
    return Series(torch.rand(90, 2), torch.rand(90, 1), context=5, horizon=3, planned=torch.rand(90, 2))


SEQUENCES: list[Callable[[], Any]] = [
    *(examples, images, tagged, chorales, parallel, conditions, vectors, strokes, recordings, digits, series),
    *(handwriting, glyphs),
]
PLAIN = [make for make in SEQUENCES if make not in (images, chorales)]
ALL = [text, *SEQUENCES]


def same(one: Any, other: Any) -> bool:
    mine, theirs = list(tensors(one)), list(tensors(other))
    return type(one) is type(other) and all(a.equal(b) for a, b in zip(mine, theirs, strict=True)) and len(mine) > 1


@pytest.mark.parametrize("make", ALL)
def test_items_are_read_by_index(make: Callable[[], Dataset[Any]]) -> None:
    data = make()
    for split in data.splits:
        items = data[split]
        assert len(items) > 3
        assert repr(items[3]) == repr(list(items)[3])
    with pytest.raises(OptionError, match="unknown split 'dev'"):
        data["dev"]


@pytest.mark.parametrize("make", SEQUENCES)
def test_a_loader_of_items_makes_the_batches_of_a_pass(make: Callable[[], Any]) -> None:
    data = make()
    for split in ("train", "valid") if make in PLAIN else ("valid",):
        sampler = data.batch_sampler(split, batch=4)
        loaded = list(DataLoader(data[split], batch_sampler=sampler, collate_fn=data.collate))
        wanted = data.epoch(split, 0, batch=4)
        assert len(loaded) == len(wanted) > 1
        assert all(map(same, loaded, wanted))


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_of_a_pass_gives_its_batches(make: Callable[[], Any], workers: int) -> None:
    data = make()
    wanted = data.epoch("train", 3, batch=4, seed=1)
    how: dict[str, Any] = {"num_workers": workers, "multiprocessing_context": "fork" if workers else None}
    loaded = list(DataLoader(wanted, batch_size=None, **how))
    assert len(loaded) == len(wanted) > 1
    assert all(map(same, loaded, wanted))


@pytest.mark.parametrize("make", ALL)
def test_a_copy_in_another_process_makes_the_same_batches(make: Callable[[], Any]) -> None:
    wanted = make().epoch("train", 3, batch=4, seed=1)
    assert all(map(same, pickle.loads(pickle.dumps(wanted)), wanted))


def test_a_loader_may_start_new_processes() -> None:
    wanted = parallel().epoch("valid", 0, batch=4)
    loaded = list(DataLoader(wanted, batch_size=None, num_workers=1, multiprocessing_context="spawn"))
    assert all(map(same, loaded, wanted))


def pick(items: list[int], indices: Array) -> list[int]:
    return [items[i] for i in indices]


def test_what_is_held_out_is_always_the_same() -> None:
    test, valid, rest = hold_out(20, [0.2, 0.1])
    assert (len(test), len(valid), len(rest)) == (4, 2, 14)
    assert sorted([*test, *valid, *rest]) == list(range(20))
    items = list(range(20))
    splits = with_held_out({"train": items}, (0.1, 0.2), pick)
    assert list(splits) == ["train", "valid", "test"]
    assert (splits["valid"], splits["test"], splits["train"]) == (valid.tolist(), test.tolist(), sorted(rest.tolist()))
    assert list(with_held_out({"train": items, "test": items[:3]}, (0.0, 0.2), pick)["test"]) == [0, 1, 2]
    for wrong in ((0.6, 0.4), (-0.1, 0.0)):
        with pytest.raises(OptionError, match=r"hold_out is .*; expected fractions that leave something"):
            with_held_out({"train": items, "valid": items, "test": items}, wrong, pick)
