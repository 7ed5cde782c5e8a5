"""The script that makes pictures of digits: its captions can be read back, and what they say can be seen."""

from __future__ import annotations

import gzip
import itertools
import re
import runpy
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

SCRIPT = Path(__file__).parent.parent / "recipes" / "digit_pictures.py"
MADE = runpy.run_path(str(SCRIPT))
NUMBERS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
}  # fmt: skip


def digits(seed: int = 0) -> Any:
    """Return digits whose ink is a block of a size and brightness of their own, so that they can be told apart."""
    images = torch.zeros(10, 28, 28)
    for digit in range(10):
        images[digit, 4 : 24 - digit, 6 : 14 + digit] = 100 + 15 * digit
    return MADE["Digits"](images, torch.arange(10), seed)


def read_back(caption: str) -> list[list[int]]:
    """Return the rows of digits that a caption tells, by its grammar."""
    rows = []
    for row in caption.split(" above "):
        found: list[int] = []
        for run in row.split(" and "):
            count, word = run.split(" ")
            times = {"a": 1, "an": 1, "two": 2, "three": 3}[count]
            singular = word if times == 1 else re.sub(r"(?<=six)es$|s$", "", word)
            assert (count == "an") == (singular == "eight" and times == 1)
            found += [NUMBERS[singular]] * times
        rows.append(found)
    return rows


def test_captions_are_in_words() -> None:
    for rows, expected in [
        ([[7]], "a seven"),
        ([[8]], "an eight"),
        ([[7], [3, 3]], "a seven above two threes"),
        ([[6, 6, 6], [8]], "three sixes above an eight"),
        ([[1, 2, 1]], "a one and a two and a one"),
        ([[2, 2, 0]], "two twos and a zero"),
    ]:
        assert MADE["caption"](rows) == expected


def test_every_caption_is_read_back() -> None:
    rows = [row for n in (1, 2, 3) for row in itertools.product(range(10), repeat=n)]
    every = [[row] for row in rows] + [[a, b] for a in rows for b in rows if len(a) + len(b) <= 4]
    assert len(every) == 1110 + 100 + 2 * 1000 + 3 * 10_000
    for shown in every:
        assert read_back(MADE["caption"](shown)) == [list(row) for row in shown]


def filled(line: torch.Tensor) -> list[tuple[int, int]]:
    """Return where lines without ink divide a picture: (begin, end) of the parts between them."""
    marks = torch.cat([torch.zeros(1), line.float(), torch.zeros(1)]).diff()
    return list(zip((marks > 0).nonzero()[:, 0].tolist(), (marks < 0).nonzero()[:, 0].tolist(), strict=True))


def test_what_a_caption_says_can_be_seen() -> None:
    some = digits()
    shapes = set()
    for _ in range(150):
        rows = some.rows()
        assert 1 <= sum(map(len, rows)) <= 4
        assert all(1 <= len(row) <= 3 for row in rows)
        shapes.add(tuple(map(len, rows)))
        picture = some.picture(rows)
        bands = filled(picture.amax(1) > 0)
        assert len(bands) == len(rows)
        for (top, bottom), row in zip(bands, rows, strict=True):
            columns = filled(picture[top:bottom].amax(0) > 0)
            found = [picture[top:bottom, left:right] for left, right in columns]
            assert [round((float(ink.max()) - 100) / 15) for ink in found] == row
            inside = [(ink > 0).any(1) for ink in found]
            assert bool(torch.stack(inside).all(0).any())  # a line of pixels that all of them share
    assert shapes == {(1,), (2,), (3,), (1, 1), (1, 2), (2, 1), (1, 3), (2, 2), (3, 1)}


def test_films_show_the_digit_that_they_say() -> None:
    some, changes = digits(), 0
    for _ in range(20):
        frames, labels = some.film()
        assert len(frames) == len(labels) == MADE["FRAMES"]
        changes += sum(a != b for a, b in itertools.pairwise(labels))
        for frame, digit in zip(frames, labels, strict=True):
            shown = frame[(frame > 0) & (frame != 128)]
            assert not len(shown) or abs(float(shown.max()) - 100 - 15 * digit) < 1
    assert 20 < changes < 100


def idx(path: Path, array: Any) -> None:
    head = struct.pack(">HBB", 0, 8, array.ndim) + b"".join(struct.pack(">I", side) for side in array.shape)
    path.write_bytes(head + array.tobytes())


def test_one_command_makes_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = np.random.default_rng(0)
    for name, count in (("train", 5020), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = chance.integers(1, 256, (count, 28, 28), dtype=np.uint8)
        for what, array in (("images-idx3", images), ("labels-idx1", labels)):
            idx(tmp_path / "plain", array)
            (tmp_path / f"{name}-{what}-ubyte.gz").write_bytes(gzip.compress((tmp_path / "plain").read_bytes(), 1))
    counts = ["--pictures", "3", "2", "1", "--films", "2", "1", "1"]
    for out in ("a", "b"):
        monkeypatch.setattr(sys, "argv", ["digit_pictures.py", str(tmp_path), *counts, "--out", str(tmp_path / out)])
        MADE["main"]()
    assert "train: 3 pictures, 2 films of 20 frames\n" in capsys.readouterr().out
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 9
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    pictures = np.load(tmp_path / "a" / "train_pictures.npz")["pictures"]
    assert (pictures.shape, pictures.dtype) == ((3, 64, 64), np.uint8)
    assert len((tmp_path / "a" / "train_captions.txt").read_text().splitlines()) == 3
    for (name, images, labels), seed in zip(MADE["parts"](tmp_path), (10, 12, 14), strict=True):
        drawn = MADE["Digits"](images, labels, seed, vary=name == "train")
        shown = [drawn.rows() for _ in range({"train": 3, "valid": 2, "test": 1}[name])]
        expected = torch.stack([drawn.picture(rows) for rows in shown]).round()
        assert (np.load(tmp_path / "a" / f"{name}_pictures.npz")["pictures"] == expected.numpy()).all()
    films = np.load(tmp_path / "a" / "test_frames.npz")
    assert (films["frames"].shape, films["digits"].shape) == ((1, 20, 40, 40), (1, 20))


@pytest.mark.parametrize("seed", [1, 2])
def test_the_seed_decides(seed: int) -> None:
    assert digits(seed).picture([[1, 2]]).equal(digits(seed).picture([[1, 2]]))
    assert not digits(seed).picture([[1, 2]]).equal(digits(seed + 1).picture([[1, 2]]))


def test_a_varied_digit_leans_and_grows_within_bounds() -> None:
    bar = torch.zeros(28, 28)
    bar[6:22, 12:16] = 200
    some, rows, leans, heights = digits(), torch.arange(28.0), [], []
    for _ in range(300):
        seen = some.varied(bar)
        assert float(seen.max()) <= 200.01
        assert float((seen.sum(0) * rows).sum() / seen.sum()) == pytest.approx(13.5, abs=0.2)  # the middle stays
        assert float((seen.sum(1) * rows).sum() / seen.sum()) == pytest.approx(13.5, abs=0.2)
        middles = (seen[10:18] * rows).sum(1) / seen[10:18].sum(1)
        leans.append(float(middles[-1] - middles[0]) / 7)
        heights.append(float(seen[:, 12:16].sum()) / 200 / 4)
    # tan(0.25) of the turn and 0.25 / 0.8 of the slant at most, to both sides
    assert -0.6 < min(leans) < -0.2
    assert 0.2 < max(leans) < 0.6
    assert min(heights) < 15 < 17 < max(heights)
