"""`everloop runs`: what is listed, in which order, and what a run folder says of its making."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from everloop.cli import main
from everloop.train import Event, Note, train
from everloop.train.environment import environment
from tests.train.small import BASE, TEXT, small_model


def write_run(folder: Path, kind: str, settings: str, lines: list[dict[str, object]], metric: str = "loss") -> None:
    folder.mkdir(parents=True)
    name = "monitor" if metric == "accuracy" else "best_metric"  # of the version before, and of this one
    train = f'{name} = "{metric}"\nsteps = 20\nlr = 0.002'
    (folder / "config.toml").write_text(f'[model]\nkind = "{kind}"\n{settings}\n[data]\n[train]\n{train}\n')
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def valid(step: int, loss: float, **more: float) -> dict[str, object]:
    return {"step": step, "split": "valid", "loss": loss, **more, "seconds": 1.0}


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    lines = [valid(10, 1.5, bits=2.0), valid(20, 1.75, bits=2.5)]
    write_run(Path("runs/b"), "language-model", 'cell = "gru"\nhidden = 64', lines)
    lines = [valid(5, 0.5, accuracy=0.5), valid(10, 0.9, accuracy=0.75), {"step": 13, "split": "train", "loss": 0.1}]
    write_run(Path("runs/a"), "tagger", 'cell = "lstm"\nhidden = 128\nbidirectional = true', lines, "accuracy")
    with Path("runs/a/metrics.jsonl").open("a") as file:
        file.write('{"step": 17, "spl')
    write_run(Path("runs/deep/c"), "tagger", 'cell = "lstm"\nhidden = 64', [])


def listed(capsys: pytest.CaptureFixture[str], *args: str) -> list[str]:
    assert main(["runs", *args]) == 0
    return capsys.readouterr().out.splitlines()


def names(capsys: pytest.CaptureFixture[str], *args: str) -> list[str]:
    return [Path(line.split()[0]).name for line in listed(capsys, *args)[1:]]


def test_what_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    head, a, b, c = listed(capsys)
    assert " ".join(head.split()) == "run kind cell hidden lr steps loss accuracy bits best at"
    assert a.split()[:8] == ["runs/a", "tagger", "lstm", "128", "0.002", "13", "of", "20"]
    assert "0.75" in a
    assert a.split()[-1] == "10"
    assert b.split()[:6] == ["runs/b", "language-model", "gru", "64", "0.002", "20"]
    assert b.split()[-3:] == ["1.5", "2", "10"]
    assert c.split() == ["runs/deep/c", "tagger", "lstm", "64", "0.002", "0", "of", "20"]


def test_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert names(capsys, "--sort", "loss") == ["a", "b", "c"]
    assert names(capsys, "--sort", "bits") == ["b", "a", "c"]
    assert names(capsys, "--sort", "accuracy")[0] == "a"
    assert names(capsys, "--sort", "step") == ["b", "a", "c"]
    assert main(["runs", "--sort", "acuracy"]) == 2
    assert "did you mean 'accuracy'" in capsys.readouterr().err


def test_filter(capsys: pytest.CaptureFixture[str]) -> None:
    assert names(capsys, "--where", "kind=tagger") == ["a", "c"]
    assert names(capsys, "--where", "kind=tagger", "hidden=64") == ["c"]
    assert names(capsys, "--where", "bidirectional=true") == ["a"]
    assert names(capsys, "--where", "lr=2e-3", "cell=gru") == ["b"]
    assert names(capsys, "runs/deep") == ["c"]
    assert main(["runs", "--where", "cell=none"]) == 0
    assert capsys.readouterr().err == "no run found with cell=none\n"
    assert main(["runs", "--where", "cell"]) == 2
    assert "expected NAME=VALUE" in capsys.readouterr().err
    assert main(["runs", "rums"]) == 2
    assert "did you mean runs?" in capsys.readouterr().err


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    first = json.loads(listed(capsys, "--json", "--sort", "accuracy")[0])
    assert (first["name"], first["step"], first["best"]) == ("runs/a", 13, {"step": 10, "loss": 0.9, "accuracy": 0.75})
    assert first["settings"]["hidden"] == 128


def test_a_damaged_run_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/b/config.toml").write_text("[model\n")
    assert main(["runs"]) == 0
    shown = capsys.readouterr()
    assert "runs/b/config.toml is not TOML" in shown.err
    assert len(shown.out.splitlines()) == 3


def test_a_run_says_what_it_was_made_with(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(small_model(), TEXT, BASE, out=run, steps=2)
    train(small_model(), TEXT, BASE, out=run, steps=4, resume=True)
    first, second = (json.loads(line) for line in (run / "history.jsonl").read_text().splitlines())
    assert first == second
    assert first["versions"]["torch"] == torch.__version__
    assert first["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert (first["threads"], first["device"], first["command"]) == (torch.get_num_threads(), "cpu", sys.argv)
    assert first["processor"]
    assert first["git"] is None  # this folder belongs to no repository


@pytest.mark.parametrize(
    ("name", "before", "told"),
    [
        ("threads", 64, "trained with 64 threads, now with {threads} thread"),
        ("processes", 4, "trained with 4 processes, now with 1 process: numbers agree to rounding, not to the bit"),
        ("processor", "An abacus", "trained with An abacus, now with {processor}: numbers"),
        ("versions", {"torch": "1.0"}, "trained with torch 1.0, now with torch {versions[torch]}: numbers"),
        ("threads", [1], "trained with [1] threads, now with"),
        ("command", ["other"], ""),
        ("versions", None, ""),
    ],
)
def test_what_rounds_otherwise_is_told_where_a_run_goes_on(name: str, before: Any, told: str, tmp_path: Path) -> None:
    run, notes = tmp_path / "run", list[str]()

    def note(event: Event) -> None:
        notes.extend([str(event)] if isinstance(event, Note) and "trained with" in str(event) else [])

    train(small_model(), TEXT, BASE, out=run, steps=2, report=note)
    train(small_model(), TEXT, BASE, out=run, steps=4, resume=True, report=note)
    assert notes == []
    history = run / "history.jsonl"
    facts = json.loads(history.read_text().splitlines()[-1])
    history.write_text(f'[1]\n{json.dumps(facts)}\n{json.dumps({**facts, name: before})}\n{{"versions": ')  # a cut line
    train(small_model(), TEXT, BASE, out=run, steps=6, resume=True, report=note)
    assert len(notes) == (1 if told else 0)
    assert not told or notes[0].startswith(told.format(**facts))
    assert [json.loads(line)[name] for line in history.read_text().splitlines()] == [facts[name], before, facts[name]]


def test_the_state_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*args: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    Path("mine.py").write_text("x = 1\n")
    git("add", "mine.py")
    git("commit", "-q", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert environment(torch.device("cpu"))["git"] == commit
    Path("mine.py").write_text("x = 2\n")
    assert environment(torch.device("cpu"))["git"] == f"{commit}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment(torch.device("cpu"))["git"] is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[1]", "line 3 is no JSON object"),
        ('"x"', "line 3 is no JSON object"),
        ('{"split": "valid", "step": 1, "loss": "y"}', "is no line of metrics"),
        ('{"split": "valid", "step": "x", "loss": 1.0}', "is no line of metrics"),
        ('{"step": 1, "loss": 1.0}', "is no line of metrics"),
    ],
)
def test_metrics_that_were_changed_are_told(capsys: pytest.CaptureFixture[str], line: str, told: str) -> None:
    with Path("runs/b/metrics.jsonl").open("a") as file:
        file.write(f"{line}\n")
    assert main(["runs"]) == 0
    said = capsys.readouterr()
    assert "runs/b/metrics.jsonl" in said.err
    assert told in said.err.replace("\n", " ")
    assert "runs/a" in said.out
    assert "runs/b" not in said.out
