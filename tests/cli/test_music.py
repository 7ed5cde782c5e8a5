"""`everloop sample RUN` of a model of chorales: notes in words, MIDI and pictures, and what is refused."""

from __future__ import annotations

import contextlib
import io
import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from everloop.cli import main
from everloop.data.readers.chorales import PITCHES
from everloop.data.readers.midi import read_midi, write_midi

PIECES = [[[60 + k, 64, 67], [60 + k, 64], [], [59, 62, 67]] * 3 for k in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("music")
    (folder / "c.json").write_text(json.dumps({"train": PIECES, "valid": PIECES[:1], "test": PIECES[1:]}))
    options = ["--train", "c.json", "--format", "chorales", "--output", "several", "--no-bidirectional"]
    quiet = contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO())
    with contextlib.chdir(folder), quiet[0], quiet[1]:
        sizes = ["--hidden", "4", "--steps", "2", "--threads", "1", "--best-metric", "loss"]
        assert main(["train", "tagger", *options, *sizes, "--out", "run"]) == 0
        assert main(["train", "tagger", *options[:-1], *sizes, "--out", "both"]) == 0
        (folder / "v.txt").write_text("the cat sat on the mat.\n" * 40)
        text = ["language-model", "--text", "v.txt", "--length", "16", "--batch", "4"]
        assert main(["train", *text, *sizes, "--out", "lm"]) == 0
    return folder


def test_a_piece_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    told = []
    for options in (["1"], ["1"], ["1", "--temperature", "0.5"], []):
        assert main(["sample", "run", *options, "--length", "5", "--given", "3", "--voices", "4", "--seed", "1"]) == 0
        told.append(capsys.readouterr().out.split("\n"))
    assert told[0] == told[1] != told[2]
    assert told[0][:3] == ["D4 E4 G4", "D4 E4", ""]
    assert told[3][0] == "C#4 E4 G4", "the first of what was held out"
    assert [len(line.split()) for line in told[0][3:]] == [4] * 5 + [0]
    assert main(["sample", "run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 + 64
    assert {len(line.split()) for line in lines[12:]} == {3}, "as most steps of the piece"
    keys = [[PITCHES.index(name) for name in line.split()] for line in lines[12:]]
    assert all(b - a > 1 for step in keys for a, b in pairwise(step)), "no neighbours"
    assert main(["sample", "run", "--voices", "0", "--temperature", "1.5"]) == 0
    assert len({len(line.split()) for line in capsys.readouterr().out.splitlines()[12:]}) > 2


def test_files(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    how = ["--length", "6", "--seed", "2", "--voices", "3"]
    assert main(["sample", "run", "0", "--given", "4", *how, "--out", "a.mid", "a.svg", "a.txt"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "4 steps of piece 0 of the test split, and 6 composed: a.mid" in shown.err
    first = read_midi(Path("a.mid"))
    assert len(first) == 10
    assert "composed" in Path("a.svg").read_text()
    assert "4 steps of piece 0" in Path("a.txt").read_text()
    assert main(["sample", "run", "a.mid", "--given", "0", *how, "--out", "b.mid", "--repeat", "--tempo", "60"]) == 0
    assert read_midi(Path("b.mid"))[:10].equal(first), "MIDI that was written is continued"


def test_a_silent_beginning_is_drawn_with_what_follows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "s.mid").write_bytes(b"")
    write_midi(folder / "s.mid", torch.cat([torch.zeros(3, 88), torch.ones(1, 88)]))
    how = ["--given", "2", "--length", "4", "--voices", "3", "--out", "silent.svg"]
    assert main(["sample", "run", "s.mid", *how]) == 0
    assert "composed" in Path("silent.svg").read_text()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("run 2", "there is no piece 2 in the test split; expected 0 to 1"),
        ("run none.mid", "none.mid: no such MIDI file"),
        ("run C4", "the prompt is 'C4'; expected a MIDI file (.mid) or the number of a piece, from 0"),
        ("run --top-k 3", "--top-k and --top-p are for symbols; music takes --temperature and --voices"),
        ("run --given -1", "given is -1; expected 0 (all) or more"),
        ("run --voices 45", "voices is 45; expected 1 to 44, of keys at least 2 apart"),
        ("run --out n.mid n.wav", "n.wav: the ending is '.wav'; expected one of .mid, .midi, .svg, .png, .txt"),
        ("run --tempo 999999", "tempo is 999999 steps a minute; expected 4 to 1,000"),
        ("both", "expected a tagger of piano rolls that reads forward only"),
        ("lm --voices 3", "--voices is for music; the run holds a language-model"),
        ("lm --out a.mid", "--out is for music; the run holds a language-model"),
    ],
)
def test_what_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    monkeypatch.chdir(folder)
    assert main(["sample", *command.split(), "--length", "2"]) == 2
    assert not Path("n.mid").exists()
    assert message in " ".join(capsys.readouterr().err.split())


def test_pieces_that_are_gone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    Path("c.json").rename("d.json")
    try:
        assert main(["sample", "run"]) == 2
        assert "the pieces of the run's data are not there" in " ".join(capsys.readouterr().err.split())
    finally:
        Path("d.json").rename("c.json")
