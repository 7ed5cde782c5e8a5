"""Trackers: what they are told is what metrics say, on the command line and in Python."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from everloop.cli import main
from everloop.errors import OptionError
from everloop.train import Event, Stepped, TensorBoard, log_to, train
from everloop.train.trackers import tracker
from tests.stubs import cannot_be_imported
from tests.train.small import BASE, TEXT, small_model

PACKAGE = """
import json

class Run:
    def __init__(self, **given):
        self.write(given)
    def write(self, what):
        with open("told.jsonl", "a") as file:
            file.write(json.dumps(what) + chr(10))
    def log(self, data, *, step):
        self.write({"step": step, **data})
    def finish(self):
        self.write({"finished": True})

def init(*, project, name, config):
    return Run(project=project, name=name, config=config)
"""


class Kept:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, dict[str, Any]]] = []

    def log(self, data: dict[str, Any], *, step: int) -> None:
        self.told.append((step, data))

    def finish(self) -> None:
        raise AssertionError("who opened it ends it")


def metrics(run: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return the metrics of a run as trackers are told them."""
    found = []
    for line in (run / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        split, step, _ = values.pop("split"), values.pop("step"), values.pop("seconds")
        found.append((step, {f"{split}/{name}": value for name, value in values.items()}))
    return found


def test_a_tracker_is_told_what_metrics_say(tmp_path: Path) -> None:
    kept = Kept()
    train(small_model(), TEXT, BASE, out=tmp_path / "run", report=log_to(kept))
    assert kept.told == metrics(tmp_path / "run")
    assert [step for step, _ in kept.told] == [4, 4, 8, 8, 12, 12]
    assert {"train/loss", "train/bits", "train/lr", "train/norm", "train/clipped"} <= kept.told[0][1].keys()
    assert kept.told[1][1].keys() == {"valid/loss", "valid/bits"}


def shown(run: Path) -> Any:
    """Return what TensorBoard shows of a run."""
    reading = import_module("tensorboard.backend.event_processing.event_accumulator")
    return reading.EventAccumulator(str(run / "tensorboard"), purge_orphaned_data=True).Reload()


@pytest.mark.parametrize("later", [-86_400.0, 0.0, 86_400.0])
def test_tensorboard_shows_a_run_that_goes_on_whatever_the_clock_says(
    later: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = time.time()
    for number in range(12):  # also as the tenth file of a second
        monkeypatch.setattr(time, "time", lambda number=number: begun + later * number)
        board = TensorBoard(tmp_path / "tensorboard")
        board.begin(10 * number)
        for step in range(10 * number + 1, 10 * number + 14):
            board.log({"train/loss": step + 1000 * number}, step=step)
        board.finish()
    events = shown(tmp_path).Scalars("train/loss")
    assert [event.step for event in events] == [*range(1, 124)]
    assert [event.value for event in events[:110]] == [s + 1000 * ((s - 1) // 10) for s in range(1, 111)]


def test_a_file_in_the_place_of_tensorboard_is_named(tmp_path: Path) -> None:
    Path(tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(FileExistsError) as told:
        TensorBoard(tmp_path / "tensorboard").begin(0)
    assert told.value.filename == str(tmp_path / "tensorboard")


def test_tensorboard_shows_the_figures_and_a_resumed_run_once(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def stopping(event: Event) -> None:
        told(event)
        if isinstance(event, Stepped) and event.step == 8:
            os.kill(os.getpid(), signal.SIGINT)

    first, second = TensorBoard(run / "tensorboard"), TensorBoard(run / "tensorboard")
    told = log_to(first)
    train(small_model(), TEXT, BASE, out=run, report=stopping)
    first.log({"train/loss": 99.0}, step=12)  # of steps that a kill has undone
    train(small_model(), TEXT, out=run, resume=True, report=log_to(second))
    for each in (first, second):
        each.finish()
    found = shown(run)
    for name in ("train/loss", "train/lr", "valid/loss"):
        expected = [(step, values[name]) for step, values in metrics(run) if name in values]
        assert [event.step for event in found.Scalars(name)] == [step for step, _ in expected]
        assert [event.value for event in found.Scalars(name)] == pytest.approx([value for _, value in expected])


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with the interface of wandb."""
    (tmp_path / "fake_tracker.py").write_text(PACKAGE)
    (tmp_path / "t.txt").write_text("the cat sat on the mat. " * 60)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fake_tracker", raising=False)
    return "fake_tracker"


SMALL = ["--text", "t.txt", "--hidden", "4", "--layers", "1", "--steps", "4", "--batch", "2", "--length", "8"]
SMALL += ["--log-every", "2", "--validate", "4", "--out", "runs/own"]


def test_on_the_command_line(package: str, capfd: pytest.CaptureFixture[str]) -> None:
    tools = ["--track", f"{package}:cats", "tensorboard"]
    assert main(["train", "language-model", *SMALL, *tools]) == 0, capfd.readouterr().err
    begun, *told, finished = map(json.loads, Path("told.jsonl").read_text().splitlines())
    assert (begun["project"], begun["name"], finished) == ("cats", "own", {"finished": True})
    assert begun["config"]["kind"] == "language-model"
    assert begun["config"]["model"]["hidden"] == 4
    assert begun["config"]["data"]["text"] == ["t.txt"]
    assert [(each.pop("step"), each) for each in told] == metrics(Path("runs/own"))
    assert list(Path("runs/own/tensorboard").glob("events.*"))


def test_a_tracker_is_finished_when_training_fails(package: str) -> None:
    Path("runs/own").mkdir(parents=True)
    Path("runs/own/metrics.jsonl").mkdir()  # cannot be written
    assert main(["train", "language-model", *SMALL, "--track", package]) == 2
    begun, finished = map(json.loads, Path("told.jsonl").read_text().splitlines())
    assert (begun["project"], finished) == ("everloop", {"finished": True})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_such_tracker",
            "track is 'no_such_tracker', and there is no such package; try: pip install no_such_tracker",
        ),
        ("json", r"track is 'json', and json has no init\(project=, name=, config=\) as wandb has"),
        ("a b", "track is 'a b'; expected tensorboard, or a package as wandb or wandb:PROJECT"),
        ("wandb:", "track is 'wandb:'; expected"),
    ],
)
def test_what_is_no_tracker(name: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        tracker(name)


@pytest.mark.parametrize(("name", "advice"), [("wandb", r"'everloop\[wandb\]'"), ("some_tracker", "some_tracker")])
def test_a_package_whose_import_fails(name: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cannot_be_imported(name, ImportError, tmp_path, monkeypatch)
    message = f"track is '{name}:cats', and its import fails: a library is missing; try: pip install {advice}$"
    with pytest.raises(OptionError, match=message):
        tracker(f"{name}:cats")


def test_a_missing_package_is_told_before_data_is_read(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.txt").write_bytes(b"\xff")  # an error too, and a later one
    assert main(["train", "language-model", *SMALL, "--track", "no_such_tracker"]) == 2
    assert "there is no such package" in capsys.readouterr().err
    assert not Path("runs/own").exists()


def test_tensorboard_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cannot_be_imported("tensorboard", ImportError, tmp_path, monkeypatch)
    with pytest.raises(OptionError, match=r"tensorboard is missing; install it with: pip install 'everloop\[tensorb"):
        tracker("tensorboard")


@pytest.mark.slow
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tracker("wandb:cats")(tmp_path / "own", {"model": {"hidden": 4}})
    train(small_model(), TEXT, BASE, out=tmp_path / "own", report=log_to(run))
    run.log({"end": 1}, step=13)  # a step is complete when the next one begins
    summary: Any = run.summary  # type: ignore[attr-defined]
    last = {name: value for _, values in metrics(tmp_path / "own") for name, value in values.items()}
    assert {name: summary[name] for name in last} == pytest.approx(last)
    run.finish()
    assert wandb.run is None
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
