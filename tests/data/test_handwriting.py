"""Handwriting: whole texts as they are, single characters joined to strings of one writer; nobody is on both sides."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from everloop.data import GlyphsConfig, GlyphStrings, Handwriting, HandwritingConfig
from everloop.data.datasets.handwriting import scaled
from everloop.data.error_policy import ErrorPolicy
from everloop.data.pen import path_of, pen_frames
from everloop.data.readers.strokes import Drawing, StrokeFields, parse_drawing
from everloop.errors import DataError, OptionError

SEVEN = [[[0, 100], [60, 100], [20, 0]], [[10, 50], [50, 50]]]
ONE = [[[0, 0], [0, 1]]]
TEXTS = [Drawing(SEVEN, "7", "train", "ann"), Drawing(ONE, "l1", "train", ""), Drawing(ONE, "1", "valid", "bob")]
CONFIG = GlyphsConfig(strings=40, held=20, slant=0.0)


def glyphs() -> list[Drawing]:
    """Characters of six writers: each of a size of its own, and as wide as the number of the writer says."""
    found = []
    for writer in range(6):
        size = 10.0**writer
        for label in "123" if writer else "1":
            strokes = [[[0, 0], [0, size * int(label)]], [[size * (1 + writer) / 9, 0], [0, size]]]
            found.append(Drawing(strokes, label, "valid" if writer > 3 else "train", f"w{writer}"))
    return found


def test_whole_texts() -> None:
    data = Handwriting(TEXTS, 0.1)
    assert data.vocabulary.symbols == ("1", "7", "l")
    assert repr(data) == "Handwriting(train 2, valid 1 texts, 3 characters)"
    frames, text = data["train"][0]
    assert text == "7"
    assert frames.equal(pen_frames(SEVEN, 0.1))
    batch = data.collate(data["train"][:])
    assert batch.frames.shape == (int(batch.lengths.max()), 2, 4)
    assert sorted(batch.label_lengths.tolist()) == [1, 2]
    down = Handwriting(TEXTS, 0.1, HandwritingConfig(upward=False))
    torch.testing.assert_close(down["train"][0][0], frames * torch.tensor([1.0, -1, -1, 1]))
    assert len({d.fingerprint for d in (data, down, Handwriting(TEXTS[::-1], 0.1), Handwriting(TEXTS, 0.2))}) == 4
    assert data.fingerprint == Handwriting(TEXTS, 0.1).fingerprint


def test_whole_texts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [{"ink": SEVEN, "text": "a 7", "part": "train"}, {"ink": ONE, "text": "", "part": "train"}]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n[]\n")
    config = HandwritingConfig(path, stroke_field="ink", label_field="text", split_field="part")
    with pytest.raises(DataError, match="a text of the train split is empty; expected what is written"):
        Handwriting.from_config(config, 0.1)
    data = Handwriting.from_config(replace(config, malformed="skip"), 0.1)
    assert (len(data["train"]), data["train"][0][1], data.errors.skipped) == (1, "a 7", 2)
    with pytest.raises(DataError, match="name a file of JSON lines with --strokes"):
        Handwriting.from_config(HandwritingConfig(), 0.1)


@pytest.mark.parametrize("make", [Handwriting, GlyphStrings])
def test_nobody_writes_on_both_sides(make: type[Handwriting] | type[GlyphStrings]) -> None:
    twice = [Drawing(ONE, "1", "train", "ann"), Drawing(ONE, "1", "train", ""), Drawing(ONE, "1", "valid", "")]
    make(twice, 0.1)
    with pytest.raises(DataError, match="writer 'ann' is in the splits train and valid; expected each in one alone"):
        make([*twice, Drawing(ONE, "2", "valid", "ann")], 0.1)
    with pytest.raises(DataError, match="unknown split 'dev'"):
        make([Drawing(ONE, "1", "dev")], 0.1)
    with pytest.raises(DataError, match="to train on; expected at least one"):
        make([Drawing(ONE, "1", "valid")], 0.1)


def test_a_string_is_of_one_writer_of_its_split() -> None:
    data = GlyphStrings(glyphs(), 0.1, replace(CONFIG, resize=0.0, shift=0.0, gap=(1.0, 1.0)))
    for split, writers in (("train", range(4)), ("valid", range(4, 6))):
        seen = set()
        for frames, text in data[split]:
            assert 3 <= len(text) <= 7
            points = np.array(path_of(frames)) * 0.1
            ink = frames[:, 3].numpy() > 0
            # the ways of the pen on paper that lead down, from where a character is widest, tell who wrote it
            strokes = np.split(np.arange(len(ink)), np.flatnonzero(np.diff(ink)) + 1)
            falls = [(k[0], k[-1] + 1) for k in strokes if ink[k[0]] and points[k[-1] + 1, 0] < points[k[0], 0] - 1e-4]
            assert len(falls) == len(text)
            # the longer side of a character is 1, whatever the units, so a 3 is a third as wide as a 1
            widths = [(points[a, 0] - points[b, 0]) * int(digit) for (a, b), digit in zip(falls, text, strict=True)]
            wrote = {round(9 * width) - 1 for width in widths}
            assert len(wrote) == 1
            seen |= wrote
        assert seen <= set(writers)
        assert len(seen) > 1
    assert data.sizes("train") == ("joined from 10 glyphs", "4 writers")


def test_strings_are_side_by_side_and_as_far_apart_as_was_said() -> None:
    drawings = [Drawing([[[0, 0], [2, 4], [4, 0]]], "A", split, split) for split in ("train", "valid")]
    for gap in ((0.0, 0.0), (0.5, 0.5), (0.2, 0.6)):
        config = replace(CONFIG, gap=gap, resize=0.0, shift=0.0, min_length=4, max_length=4)
        for frames, text in GlyphStrings(drawings, 0.02, config)["valid"]:
            assert text == "AAAA"
            points = np.array(path_of(frames)) * 0.02
            air = np.flatnonzero(frames[:, 3].numpy() == 0)
            jumps = np.split(air, np.flatnonzero(np.diff(air) > 1) + 1)
            spaces = [points[jump[-1] + 1, 0] - points[jump[0], 0] for jump in jumps if len(jump)]
            assert len(spaces) == (3 if gap[1] else 0), "where one begins at the end of another, there is no air"
            assert all(gap[0] - 1e-4 <= space <= gap[1] + 1e-4 for space in spaces)


def test_each_pass_has_new_strings_and_validation_the_same() -> None:
    data = GlyphStrings(glyphs(), 0.1, CONFIG)
    first, again, second = (data.epoch("train", n, batch=40)[0] for n in (0, 0, 1))
    assert first.frames.equal(again.frames)
    assert not first.labels[:, :3].equal(second.labels[:, :3])
    assert not first.labels[:, :3].equal(data.epoch("train", 0, batch=40, seed=1)[0].labels[:, :3])
    assert data.epoch("valid", 0, batch=20)[0].frames.equal(data.epoch("valid", 7, batch=20, seed=9)[0].frames)
    assert data.fingerprint == GlyphStrings(glyphs(), 0.1, CONFIG).fingerprint
    others = (replace(CONFIG, gap=(0.1, 0.2)), replace(CONFIG, slant=0.1), replace(CONFIG, shift=0.0))
    assert len({data.fingerprint, *(GlyphStrings(glyphs(), 0.1, c).fingerprint for c in others)}) == 4
    assert "joined from 10 glyphs, 4 writers, padding" in data.describe(8)[0]


def test_how_strings_vary() -> None:
    plain = replace(CONFIG, resize=0.0, shift=0.0, slant=0.0, gap=(0.2, 0.2))

    def frames(split: str, **how: Any) -> list[list[float]]:
        config = replace(plain, **how)
        return [frame for strings, _ in GlyphStrings(glyphs(), 0.1, config)[split] for frame in strings.tolist()]

    for name in ("resize", "shift", "slant"):
        assert frames("train") != frames("train", **{name: 0.3}), name
        assert (frames("valid") == frames("valid", **{name: 0.3})) is (name == "slant"), name


def test_wrong_glyphs_and_options() -> None:
    with pytest.raises(DataError, match="the label of a glyph is '12'; expected one character"):
        GlyphStrings([Drawing(ONE, "12", "train")], 0.1)
    with pytest.raises(DataError, match="name a file of JSON lines with --glyphs"):
        GlyphStrings.from_config(GlyphsConfig(), 0.1)
    for wrong in ({"gap": (0.3, 0.2)}, {"resize": 1.0}, {"min_length": 0}, {"min_length": 8}):
        with pytest.raises(OptionError, match="expected"):
            GlyphsConfig(**wrong)


def test_scaled() -> None:
    points = scaled([[[5, 7], [5, 9]], [], [[9, 7]]])
    assert points.tolist() == [[0, 0, 1], [0, 0.5, 0], [1, 0, 1]]
    assert scaled([[[2, 3]]]).tolist() == [[0, 0, 1]]


def test_nobody_is_named_null() -> None:
    line = {"label": "1", "split": "train", "writer": None, "strokes": [[[0, 0], [1, 1]]]}
    drawn = parse_drawing(json.dumps(line), StrokeFields(), ("label",), ("f", 1), ErrorPolicy())
    assert drawn is not None
    assert (drawn.writer, drawn.label) == ("", "1")
