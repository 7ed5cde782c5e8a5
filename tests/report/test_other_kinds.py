"""Pages of drawings, of recordings, and of a kind of one's own that says nothing of its examples."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from everloop.cli import main
from tests.cli.test_own_kind import NAME, SOURCE
from tests.data.test_audio import digit_recordings, write_wav
from tests.report.test_report import SECTIONS, read

QUICK = ["--steps", "3", "--hidden", "6", "--batch", "4", "--threads", "1", "--log-every", "1"]


def page(run: Path, *more: str) -> Path:
    assert main(["report", str(run), *more]) == 0
    path = run / "report.html"
    ids = [given["id"] for _, given in read(path).elements if "id" in given]
    assert [one for one in ids if one in SECTIONS] == SECTIONS
    return path


def test_drawings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawing = {"label": "<b>", "split": "train", "strokes": [[[0, 0], [3, 9], [5, 0]]]}
    lines = [json.dumps({**drawing, "split": part}) for part in ("train", "valid") for _ in range(8)]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    run = tmp_path / "run"
    assert main(["train", "generator", "--strokes", str(tmp_path / "d.jsonl"), *QUICK, "--out", str(run)]) == 0
    path = page(run)
    assert read(path).missing == {"tree", "attention", "labels"}
    assert 'aria-label="drawn for &lt;b&gt;"' in path.read_text("utf-8")


def test_recordings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for digit, found in digit_recordings(4).items():
        for i, samples in enumerate(found):
            write_wav(tmp_path / f"{digit}_ann_{i}.wav", samples.clamp(-1, 1).numpy())
    sizes = ["--rate", "8000", "--mels", "20", "--strings", "12", "--held", "6", "--split", "0.5", "0.25", "0.25"]
    run = tmp_path / "run"
    assert main(["train", "transcriber", "--digits", str(tmp_path), *sizes, *QUICK, "--out", str(run)]) == 0
    path = page(run)
    assert read(path).missing == {"tree", "attention", "labels"}
    assert "log-probability" in path.read_text("utf-8")


def test_a_kind_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "parity_kind", raising=False)
    (tmp_path / "parity_kind.py").write_text(SOURCE)
    (tmp_path / "lines.txt").write_text("01101\n01100\n" * 20)
    train = [
        "train",
        NAME,
        "--lines",
        "lines.txt",
        "--steps",
        "3",
        "--batch",
        "4",
        "--log-every",
        "1",
        "--threads",
        "1",
    ]
    assert main([*train, "--out", "run"]) == 0
    path = page(tmp_path / "run", "--trust-code")
    assert {"examples", "tree", "attention", "labels"} <= read(path).missing
    assert "has no examples to show" in path.read_text("utf-8")
    monkeypatch.delitem(sys.modules, "parity_kind")
