"""Strokes and conditions: what a drawing becomes and comes back as, what is refused."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from everloop.data.datasets.conditions import Conditions, ConditionsConfig
from everloop.data.datasets.strokes import DRAW, END, MOVE, Strokes, StrokesConfig, lines_of, simplified, steps_of
from everloop.errors import DataError

SEVEN = [[[0, 100], [60, 100], [20, 0]], [[10, 50], [50, 50]]]


def test_steps_are_ways_scaled_to_the_longer_side() -> None:
    steps = steps_of(SEVEN, 0.0)
    expected = [[0.6, 0, DRAW], [-0.4, -1, DRAW], [-0.1, 0.5, MOVE], [0.4, 0, DRAW], [0, 0, END]]
    torch.testing.assert_close(steps, torch.tensor(expected))
    larger = [[[7 * x + 3, 7 * y - 90] for x, y in line] for line in SEVEN]
    torch.testing.assert_close(steps_of(larger, 0.0), steps, rtol=1e-6, atol=1e-6)


def test_steps_come_back_as_lines() -> None:
    lines = lines_of(steps_of(SEVEN, 0.0))
    assert [len(line) for line in lines] == [3, 2]
    for line, original in zip(lines, SEVEN, strict=True):
        expected = (torch.tensor(original, dtype=torch.float32) - torch.tensor([0.0, 100.0])) / 100
        torch.testing.assert_close(line, expected, rtol=1e-5, atol=1e-6)


def test_what_is_left_out_is_near_the_line() -> None:
    angle = np.linspace(0, 5, 200)
    line = np.stack([np.cos(angle) * angle, np.sin(angle) * angle], 1)
    kept = simplified(line, 0.05)
    assert 4 < len(kept) < 40
    assert (kept[0] == line[0]).all()
    assert (kept[-1] == line[-1]).all()
    for point in line:
        away = []
        for a, b in pairwise(kept):
            share = np.clip((point - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
            away.append(np.linalg.norm(point - a - share * (b - a)))
        assert min(away) <= 0.05 + 1e-12
    assert len(simplified(line, 0.2)) < len(kept)
    closed = np.array([[0, 0], [1, 0], [1, 1], [0, 0]], dtype=float)
    assert len(simplified(closed, 0.1)) == 4


def drawings(path: Path, lines: list[str]) -> StrokesConfig:
    path.write_text("\n".join(lines) + "\n")
    return StrokesConfig(path)


def test_json_lines_become_batches(tmp_path: Path) -> None:
    lines = [
        json.dumps({"label": "7", "split": "train", "strokes": SEVEN}),
        json.dumps({"label": "1", "split": "valid", "strokes": [[[0, 0], [0, 5]]]}),
        json.dumps({"label": "1", "split": "train", "strokes": [[[0, 0], [1, 5]]]}),
    ]
    data = Strokes.from_config(drawings(tmp_path / "d.jsonl", lines))
    assert data.labels == ("1", "7")
    assert data.splits == ("train", "valid")
    batch = data.epoch("valid", 0, batch=4)[0]
    assert batch.given.tolist() == [0]
    torch.testing.assert_close(batch.steps[:, 0], torch.tensor([[0.0, 1.0, DRAW], [0, 0, END]]))
    assert batch.mask.tolist() == [[True], [True]]
    assert sum(len(b.given) for b in data.epoch("train", 0, batch=4)) == 2


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1, 2]",
        '{"split": "train", "strokes": [[[0, 0], [1, 1]]]}',
        '{"label": "1", "split": "train", "strokes": [[[0, 0, 3], [1, 1, 3]]]}',
        '{"label": "1", "split": "train", "strokes": [[[0, 0]]]}',
        '{"label": "1", "split": "train", "strokes": [[[0, "x"], [1, 1]]]}',
    ],
)
def test_malformed_drawings(tmp_path: Path, line: str) -> None:
    good = json.dumps({"label": "7", "split": "train", "strokes": SEVEN})
    config = drawings(tmp_path / "d.jsonl", [good, line])
    with pytest.raises(DataError, match=r"d\.jsonl: line 2: "):
        Strokes.from_config(config)
    data = Strokes.from_config(StrokesConfig(config.strokes, malformed="skip"))
    assert (len(data["train"]), data.errors.skipped) == (1, 1)


def test_folders_and_tables_of_texts(tmp_path: Path) -> None:
    for label, names in (("Czech", "Abl\nDub\n"), ("Greek", "Maki\nKosta\n\nRho\n")):
        (tmp_path / f"{label}.txt").write_text(names)
    data = Conditions.from_config(ConditionsConfig(tmp_path, hold_out=0.4))
    assert data.labels == ("Czech", "Greek")
    assert [len(data[name]) for name in ("train", "valid")] == [3, 2]
    table = tmp_path / "t.tsv"
    table.write_text("Czech\tAbl\nCzech\tDub\nGreek\tMaki\nGreek\tKosta\nGreek\tRho\n")
    assert Conditions.from_config(ConditionsConfig(table, hold_out=0.4)).fingerprint == data.fingerprint
    stop = len(data.vocabulary)
    for batch in data.epoch("train", 0, batch=2):
        assert (batch.inputs[0] == stop).all()
        assert (batch.targets.gather(0, batch.lengths[None] - 1) == stop).all()
    table.write_text("Czech\tAbl\nDub\n")
    with pytest.raises(DataError, match="line 2: 'Dub'; expected LABEL TAB TEXT"):
        Conditions.from_config(ConditionsConfig(table))


def test_vectors_of_images(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.arange(12).reshape(4, 3))
    (tmp_path / "c.txt").write_text("one\ntwo\nthree\nfour\n")
    data = Conditions.from_config(ConditionsConfig(tmp_path / "c.txt", tmp_path / "v.npy", hold_out=0.25))
    assert (data.labels, data.given_size) == ((), 3)
    assert sum(len(b.given) for b in data.epoch("train", 0, batch=2)) == 3
    (tmp_path / "c.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match=r"4 vectors and .* has 2 lines; expected one for each line"):
        Conditions.from_config(ConditionsConfig(tmp_path / "c.txt", tmp_path / "v.npy"))
