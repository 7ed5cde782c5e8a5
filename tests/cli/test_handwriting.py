"""A transcriber of pen strokes from end to end: single characters joined, whole texts, figures, and what is refused."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from everloop.cli import main

STROKES = {"1": [[[0, 0], [0, 9]]], "7": [[[0, 9], [5, 9], [2, 0]], [[1, 5], [4, 5]]], "<": [[[4, 4], [0, 2], [4, 0]]]}
JOINED = ["--strings", "12", "--held", "6"]
SIZES = ["--hidden", "6", "--steps", "3", "--batch", "4", "--threads", "1"]


def line(text: str, split: str, **more: Any) -> str:
    strokes = [[[x + 9 * k, y] for x, y in stroke] for k, c in enumerate(text) for stroke in STROKES[c]]
    return json.dumps({"label": text, "split": split, "strokes": strokes, **more}) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pen")
    parts = [("train", "ann"), ("valid", "bob")]
    (folder / "g.jsonl").write_text("".join(line(c, p, writer=w) for p, w in parts for c in STROKES for _ in range(3)))
    (folder / "t.jsonl").write_text("".join(line(text, part) for part, _ in parts for text in ("17", "7<1", "11")))
    quiet = contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO())
    with contextlib.chdir(folder), quiet[0], quiet[1]:
        assert main(["train", "transcriber", "--glyphs", "g.jsonl", *JOINED, *SIZES, "--out", "joined"]) == 0
        assert main(["train", "handwriting", "--strokes", "t.jsonl", *SIZES, "--spacing", "0.1", "--out", "whole"]) == 0
    return folder


@pytest.fixture
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.usefixtures("there")
def test_texts_are_evaluated_and_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "joined", "--split", "valid"]) == 0
    assert "on 6 valid strings, beam 8" in " ".join(capsys.readouterr().out.split())
    for run in ("joined", "whole"):
        assert main(["evaluate", run, "t.jsonl"]) == 0
        assert "of 14 characters) on 6 test texts" in " ".join(capsys.readouterr().out.split())
        # a line that is read needs strokes alone
        Path("new.jsonl").write_text(json.dumps({"strokes": STROKES["7"]}) + "\n\n" + line("1", "whatever"))
        assert main(["predict", run, "new.jsonl", "--n-best", "2"]) == 0
        first, second, empty, *third = [row.split("\t") for row in capsys.readouterr().out.splitlines()]
        assert (first[0], second[0], empty, third[0][0]) == ("1", "1", [""], "3")
        assert float(first[1]) > float(second[1])
    Path("bad.jsonl").write_text('{"strokes": 7}\n' + line("1", ""))
    assert main(["predict", "whole", "bad.jsonl"]) == 2
    assert "bad.jsonl: line 1: strokes is 7; expected an object with strokes" in " ".join(
        capsys.readouterr().err.split()
    )
    assert main(["predict", "whole", "bad.jsonl", "--malformed", "skip"]) == 0
    assert [row[:2] for row in capsys.readouterr().out.split("\n")] == ["", "2\t", ""]


@pytest.mark.usefixtures("there")
def test_the_path_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draw", "path", "joined", "--sequence", "1"]) == 0
    assert capsys.readouterr().out.startswith("Read as ")
    assert main(["draw", "path", "whole", "t.jsonl", "--out", "p.svg"]) == 0
    assert "in the air" in Path("p.svg").read_text()
    assert main(["report", "joined"]) == 0
    assert "which symbol is read where on the way of the pen" in Path("joined/report.html").read_text("utf-8")
    assert main(["draw", "network", "whole"]) == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "train transcriber --strokes t.jsonl --glyphs g.jsonl",
            "expected either --audio or --digits or --strokes or --g",
        ),
        ("train transcriber --glyphs t.jsonl", "the label of a glyph is '17'; expected one character (--strokes reads"),
        (
            "train transcriber --glyphs g.jsonl --reads sound",
            "reads is 'sound'; the data are for 'pen', which it is without",
        ),
        ("train transcriber --strokes t.jsonl --spacing 0", "spacing is 0.0; expected a number above 0"),
        *[
            (
                f"train transcriber {given} {option}",
                f"{option.split()[0]} is for {of}; leave it out with {given.split()[0]}",
            )
            for option, of, given in [
                ("--rate 8000", "sound", "--strokes t.jsonl"),
                ("--mels 20", "sound", "--glyphs g.jsonl"),
                ("--window 0.03", "sound", "--strokes t.jsonl"),
                ("--hop 0.02", "sound", "--glyphs g.jsonl"),
                ("--spacing 0.1", "the strokes of a pen", "--audio . --transcripts t.jsonl"),
                ("--spacing 0.1", "the strokes of a pen", "--digits ."),
            ]
        ],
        ("train transcriber --strokes t.jsonl --stacked 99 --steps 1", "stacked frames or a smaller spacing"),
        (
            "train transcriber --strokes t.jsonl --test-speakers bob",
            "--test-speakers is for --digits; leave it",
        ),
        ("train transcriber --strokes t.jsonl --pause 3", "--pause is for --digits; leave it out with --strokes"),
        ("train transcriber --strokes t.jsonl --strings 7", "--strings is for --digits or --glyphs; leave it out with"),
        ("train transcriber --strokes t.jsonl --time-masks 2", "--time-masks is for --audio or --digits; leave it out"),
        ("train transcriber --glyphs g.jsonl --vtlp 0.1", "--vtlp is for --audio or --digits; leave it out with --g"),
        ("train transcriber --glyphs g.jsonl --strings 0", "strings is 0; expected at least one string"),
        ("train transcriber --glyphs g.jsonl --held 0", "held is 0; expected at least one string"),
        (
            "train transcriber --audio . --transcripts t.jsonl --slant 0.4",
            "--slant is for --glyphs; leave it out with --audio",
        ),
        (
            "train transcriber --audio . --transcripts t.jsonl --frequency-mask-width 3",
            "frequency_mask_width is 3, and frequency_masks is 0; expected 1 or more with it",
        ),
        ("train transcriber --strokes none.jsonl", "none.jsonl: no such file"),
        ("evaluate whole t.jsonl --labels x", "holds the transcripts itself"),
        ("predict whole t.jsonl --format wav", "format is 'wav'; this model reads: jsonl"),
        ("draw path whole t.jsonl --sequence 9", "there is no sequence 9 in the test split"),
    ],
)
@pytest.mark.usefixtures("there")
def test_what_is_refused(capsys: pytest.CaptureFixture[str], command: str, message: str) -> None:
    assert main(command.split()) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("there")
def test_unknown_characters_and_others_runs(capsys: pytest.CaptureFixture[str]) -> None:
    Path("more.jsonl").write_text(line("7", "test").replace('"7"', '"8"'))
    assert main(["evaluate", "whole", "more.jsonl"]) == 2
    assert "'8'" in capsys.readouterr().err
    assert main(["train", "handwriting", "--resume", "joined", "--steps", "4"]) == 0
