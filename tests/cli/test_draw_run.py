"""`everloop draw loss RUN` and its like, on small runs: figures in characters and in files, and what is refused."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from everloop.cli import main

VERSE = "the cat sat on the mat and the rat sat on the cat.\n" * 40
TSV = "".join(f"{'good' if i % 2 else 'bad'} film {i % 7}\t{'<b>' if i % 2 else 'no & not'}\n" for i in range(60))
SMALL = ["--batch", "4", "--hidden", "6", "--threads", "1", "--log-every", "1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "v.txt").write_text(VERSE)
    (folder / "t.tsv").write_text(TSV)
    (folder / "t.csv").write_text("a,b\n" + "".join(f"{i % 4},{1000 + i % 3}\n" for i in range(200)))
    (folder / "s.txt").write_text("ein hund\nzwei katzen\n" * 20)
    (folder / "w.txt").write_text("a dog\ntwo cats\n" * 20)
    text = ["language-model", "--text", "v.txt", "--length", "16", "--layers", "2", "--cell", "lstm", "--steps", "6"]
    labels = ["classifier", "--train", "t.tsv", "--columns", "text", "label", "--pooling", "attention"]
    sizes = ["--context", "8", "--horizon", "4", "--season", "4", "--output", "gaussian"]
    pairs = ["--source", "s.txt", "--target", "w.txt", "--min-freq", "1"]
    with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        assert main(["train", *text, *SMALL, "--out", "lm"]) == 0
        assert main(["train", *labels, *SMALL, "--steps", "30", "--lr", "0.03", "--out", "cls"]) == 0
        series = ["forecaster", "--train", "t.csv", "--series", "a", "b", *sizes]
        assert main(["train", *series, *SMALL, "--steps", "2", "--out", "fc"]) == 0
        assert main(["train", "translator", *pairs, "--embedding", "6", *SMALL, "--steps", "2", "--out", "mt"]) == 0
    return folder


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("loss lm", ["Loss (nats)", "training    ", "step →"]),
        ("gradients lm", ["Gradient through time", "recurrent, layer 2, c"]),
        ("gates lm --name f", ["Gate f of recurrent, layer 1\n", "\n5 "]),
        ("unit lm --unit 3 --length 9", ["Unit 3 of state h, recurrent, layer 1", "cat"]),
        ("connectivity lm --length 9", ["Which inputs each output depends on (recurrent)"]),
        ("connectivity cls", ["What the answer depends on (recurrent)", "film"]),
        ("tree lm --depth 2 --min-probability 0", ["\n├── ", "%"]),
        ("confusion cls t.tsv", ["Which label is taken for which (60 of the test split)", "no & not   0 30"]),
        ("forecast fc --series b", ["Forecasts of b", "came   ", "forecast  "]),
        ("gates fc", ["Gate ", "\n  1 2 3 4 5 6 7 8\n"]),
    ],
)
def test_in_characters(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, wanted: list[str]
) -> None:
    monkeypatch.chdir(runs)
    assert main(["draw", *command.split()]) == 0
    shown = capsys.readouterr().out
    assert [text for text in wanted if text not in shown] == [], shown


def test_attention(runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(runs)
    assert main(["draw", "attention", "cls", "good film"]) == 0
    assert "good film" in capsys.readouterr().out
    assert main(["draw", "attention", "mt", "zwei katzen", "two cats", "--out", "a.svg", "a.txt"]) == 0
    names = ["two", "cats", "■"]
    assert [line.split()[0] for line in Path("a.txt").read_text().splitlines()[-3:]] == names
    assert ">katzen</text>" in Path("a.svg").read_text()
    assert main(["draw", "attention", "mt", "zwei katzen"]) == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("gates lm --name g", "unknown gate or state 'g'"),
        ("gates lm --layer recurrent", "unknown layer 'recurrent'; did you mean 'recurrent, layer 2'"),
        ("gates lm --units 6", "unit is 6; recurrent, layer 1 has the units 0 to 5"),
        ("unit lm --sequence 999999", "there is no sequence 999999 in the test split"),
        ("unit lm --length 0", "length is 0"),
        ("unit lm none.txt", "none.txt: no such file"),
        ("confusion lm", "holds a language-model; expected a model that gives labels"),
        ("forecast lm", "holds a language-model; expected a forecaster"),
        ("forecast fc --series c", "unknown series 'c'"),
        ("attention lm text", "expected a translator, a generator that is given pictures, or a classifier of texts"),
        ("attention cls text more", "a classifier writes nothing"),
        ("attention cls --out x.svg", "an argument without a name is missing, and x.svg was taken for it"),
        ("loss lm --out", "--out has no value; expected at least one"),
        ("loss nowhere", "there is no such run folder"),
    ],
)
def test_mistakes(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    monkeypatch.chdir(runs)
    assert main(["draw", *command.split()]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
