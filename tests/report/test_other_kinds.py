"""Pages of drawings, of recordings, and of a kind of one's own that says nothing of its examples."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from everloop.cli import main
from everloop.data import PictureSize
from everloop.data.datasets.conditions import Conditions
from everloop.models import Generator
from everloop.report import figures
from tests.cli.test_own_kind import NAME, SOURCE
from tests.cli.test_pictures import halves
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


def test_captions_with_attention(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, pictures, run = tmp_path / "c.txt", tmp_path / "p.npy", tmp_path / "run"
    texts.write_text("a <b> above\nleft\n" * 8)
    np.save(pictures, halves(16))
    given = ["--texts", str(texts), "--pictures", str(pictures), "--given", "attention", "--channels", "8"]
    assert main(["train", "generator", *given, *QUICK, "--out", str(run)]) == 0
    path = page(run)
    assert read(path).missing == {"labels"}
    markup = path.read_text("utf-8")
    section = markup[markup.index('<section id="attention"') : markup.index('<section id="labels"')]
    assert section.count("<figure>") == len(set(re.findall(r"<figcaption>(picture \d+) →", section))) > 0
    assert section.count('role="img" aria-label="Attention: where it looks for each') == section.count("<figure>")
    assert section.count("data:image/png;base64,") >= section.count("<figure>")
    capsys.readouterr()
    out = tmp_path / "look.svg"
    assert main(["draw", "attention", str(run), str(pictures), "a <b> above"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Attention: where it looks for each word\n")
    assert shown.splitlines()[5].split() == ["a", "<b>", "above", "■"]
    assert main(["draw", "attention", str(run), str(pictures), "left", "--out", str(out)]) == 0
    assert re.findall(r">(.)</text>", out.read_text("utf-8")) == ["l", "e", "f", "t", "■", "0"]
    assert main(["draw", "attention", str(run), str(pictures)]) == 0
    assert main(["draw", "attention", str(run), str(pictures), "lost"]) == 2
    assert "'s'" in capsys.readouterr().err


def test_a_word_is_the_mean_of_its_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    words = Conditions([(torch.zeros(8, 8, 1), "ab c")]).vocabulary
    model = Generator(PictureSize(8, 8), words, hidden=4, channels=(4,), given="attention")
    calls: list[tuple[list[str], torch.Tensor]] = []
    monkeypatch.setattr(figures, "draw_looks", lambda _, words, weights, **__: calls.append((words, weights)))
    picture = torch.randint(0, 255, (8, 8, 1), dtype=torch.uint8)
    for text, names, steps in (
        ("ab ca b", ["ab", "ca", "b", "■"], [[0, 1], [3, 4], [6], [7]]),
        ("cab", ["c", "a", "b", "■"], [[0], [1], [2], [3]]),
        ("", ["■"], [[0]]),
    ):
        figures.looks_of(model, picture, text)
        found, weights = calls.pop()
        assert found == names
        expected = model.weights(picture, text)
        torch.testing.assert_close(weights, torch.stack([expected[some].mean(0) for some in steps]))


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
