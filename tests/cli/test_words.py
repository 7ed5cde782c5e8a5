"""Language models of words on the command line: trained, asked, resumed, evaluated."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from everloop.cli import main
from everloop.models import load

VERSE = 'The cat sat on the mat, and the rat (old) said: "It\'s late."\n' * 40 + "A dog came.\n" * 4
SIZES = {"steps": 6, "batch": 2, "length": 8, "hidden": 8, "layers": 1, "cell": "elman", "validate": 3, "threads": 1}
SMALL = [part for name, value in SIZES.items() for part in (f"--{name}", str(value))]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("verse.txt").write_text(VERSE)


def trained(*options: str) -> None:
    words = ["--text", "verse.txt", "--units", "words", "--split", "0.9", "0.1", "0"]
    assert main(["train", "language-model", *words, *SMALL, "--out", "run", *options]) == 0


def test_trained_and_asked(capsys: pytest.CaptureFixture[str]) -> None:
    trained()
    shown = capsys.readouterr()
    assert "words, 22 different, 0 unknown in train (0.00%), 12 unknown in valid" in shown.err
    assert "bits/word" in shown.err
    assert "perplexity" in shown.err
    assert "per word" in shown.err
    assert Path("run/samples.txt").read_text().count("temperature") == 3
    model = load("run")
    prompt = "The old unicorn"
    assert main(["sample", "run", prompt, "--length", "12", "--seed", "1"]) == 0
    shown = capsys.readouterr()
    assert shown.err == "unknown to the model: 'unicorn'\n"
    assert shown.out.startswith(prompt)
    assert "<unknown>" not in shown.out
    assert len(model.vocabulary.encode(shown.out[len(prompt) : -1])) == 12
    assert main(["tree", "run", "The cat", "--width", "2", "--depth", "2", "--min-probability", "0"]) == 0
    assert "The cat" in capsys.readouterr().out
    assert [name in model.vocabulary for name, _ in model.neighbours("cat", 3)] == [True] * 3


def test_lines_are_scored_and_the_unknown_counted(capsys: pytest.CaptureFixture[str]) -> None:
    trained()
    Path("lines.txt").write_text("The cat sat.\n\nThe unicorn sat.\n")
    capsys.readouterr()
    assert main(["score", "run", "lines.txt"]) == 0
    shown = capsys.readouterr()
    rows = [line.split("\t") for line in shown.out.splitlines() if line]
    assert shown.out.splitlines()[1] == ""
    assert [(count, text) for _, count, text in rows] == [("4", "The cat sat."), ("4", "The unicorn sat.")]
    model = load("run")
    assert [float(logp) for logp, _, _ in rows] == [
        pytest.approx(-model.score(text).nats, abs=1e-4) for _, _, text in rows
    ]
    assert shown.err == "1 of 8 words unknown (12.50%), scored as one and the same\n"


def test_options_of_words(capsys: pytest.CaptureFixture[str]) -> None:
    trained("--lower", "--min-freq", "5", "--max-vocab", "9")
    data = tomllib.loads(Path("run/config.toml").read_text())["data"]
    assert (data["units"], data["lower"], data["min_freq"], data["max_vocab"]) == ("words", True, 5, 9)
    assert len(load("run").vocabulary) == 11
    assert load("run").vocabulary.unknown_symbols("THE CAT") == []
    assert main(["train", "language-model", "--text", "verse.txt", "--units", "bytes", "--limit", "9", *SMALL]) == 2
    assert "max_vocab is 9; that is for characters, words and subwords" in " ".join(capsys.readouterr().err.split())


def test_resumed_and_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    trained()
    assert main(["train", "language-model", "--resume", "run", "--steps", "9"]) == 0
    assert json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])["step"] == 9
    Path("new.txt").write_text("The unicorn sat.\n" * 3)
    capsys.readouterr()
    assert main(["evaluate", "run", "new.txt", "--json"]) == 0
    shown = capsys.readouterr()
    figures = json.loads(shown.out)
    assert (figures["target"], figures["count"]) == ("word", 14)
    assert figures["perplexity"] > 1
    assert "3 unknown in test (20.00%)" in shown.err


def test_a_prompt_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    trained()
    capsys.readouterr()
    assert main(["sample", "run", "  "]) == 2
    assert "the prompt is empty" in capsys.readouterr().err


def test_a_document_ends_with_an_empty_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.jsonl").write_text("".join('{"text": "ab"}\n' for _ in range(400)))
    small = ["--documents", "files", "--hidden", "4", "--steps", "2", "--batch", "2", "--length", "8", "--out", "run"]
    assert main(["train", "lm", "--text", "t.jsonl", *small]) == 0
    assert main(["sample", "run", "--length", "60", "--seed", "1"]) == 0
    shown = capsys.readouterr()
    assert "\x1c" not in shown.out + shown.err + Path("run/samples.txt").read_text()
    assert "\n\n" in shown.out
    assert main(["score", "run", "t.jsonl"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split("\t")[1:] == ["2", "ab"]
