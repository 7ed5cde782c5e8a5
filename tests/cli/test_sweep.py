"""`everloop sweep`: which trials there are, that they run, go on after a stop, and end in a table."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from everloop.cli import main
from everloop.cli.trials import Axis, Trial, trials_of
from everloop.errors import OptionError
from everloop.train.folder import read_lines
from everloop.train.interrupt import Interrupt
from everloop.train.lock import Lock

TRAIN = ["language-model", "--text", "t.txt", "--batch", "2", "--length", "8", "--steps", "4", "--layers", "1"]
TRAIN += ["--threads", "1"]
SIZES = ["--hidden", "4", "--embedding", "3"]


def test_a_grid_is_every_combination() -> None:
    trials = trials_of([Axis.of("lr=1e-3,3e-3"), Axis.of("--cell=gru,lstm"), Axis.of("weight-drop=0")], None, 0)
    assert [trial.name for trial in trials] == [
        f"lr={lr},cell={cell},weight_drop=0" for lr in ("1e-3", "3e-3") for cell in ("gru", "lstm")
    ]


def test_trials_that_are_drawn_are_the_same_again_and_more_go_on() -> None:
    axes = [Axis.of("lr=1e-4..1e-1"), Axis.of("dropout=0..0.5"), Axis.of("hidden=8..12"), Axis.of("cell=gru,lstm")]
    few, many = trials_of(axes, 5, 3), trials_of(axes, 200, 3)
    assert many[:5] == few != trials_of(axes, 5, 4)
    drawn = [dict(trial.settings) for trial in many]
    rates = [float(each["lr"]) for each in drawn]
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert sum(rate < 1e-3 for rate in rates) == pytest.approx(len(rates) / 3, rel=0.35)
    assert {each["hidden"] for each in drawn} == {"8", "9", "10", "11", "12"}
    assert max(float(each["dropout"]) for each in drawn) > 0.4
    assert {each["cell"] for each in drawn} == {"gru", "lstm"}


def test_values_that_are_drawn_twice_are_drawn_again() -> None:
    assert len(trials_of([Axis.of("hidden=4..5")], 50, 0)) == 2
    few, all_ = ([Axis.of("hidden=1..30"), Axis.of("cell=gru,lstm")] for _ in range(2))
    for count in (1, 30, 59, 60):
        trials = trials_of(few, count, 0)
        assert len(set(trials)) == count
        assert trials == trials_of(all_, 60, 0)[:count]
    assert len(trials_of([Axis.of("lr=0.1..0.3")], 150, 0)) == 150
    assert Axis.of("hidden=1..2").draw(random.Random(0)) in ("1", "2")


def test_options_of_a_trial() -> None:
    trial = Trial((("lr", "1e-3"), ("tied", "true"), ("lower", "False"), ("zoneout", "h 0.1 c 0.5")))
    known = ["lr", "tied", "no-tied", "lower", "no-lower", "zoneout"]
    assert trial.options(known) == ["--lr", "1e-3", "--tied", "--no-lower", "--zoneout", "h", "0.1", "c", "0.5"]
    assert trial.name == "lr=1e-3,tied=true,lower=False,zoneout=h_0.1_c_0.5"
    long = [Trial((("cell", f"{'x' * 200}{n}"),)).name for n in range(2)]
    assert max(map(len, long)) <= 120
    assert long[0] != long[1]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["lr"], "'lr' is no setting to sweep; expected NAME=VALUE,VALUE or NAME=LOW..HIGH"),
        (["lr=1,,2"], "'lr=1,,2' has an empty value, or one twice"),
        (["lr=1,1"], "has an empty value, or one twice"),
        (["lr=2..1"], "'lr=2..1' is no range; expected two numbers, the lower first"),
        (["lr=a..b"], "is no range"),
        (["lr=1", "lr=2"], "settings to sweep are lr, lr; expected some, each once"),
        (["lr=1..2"], "lr has a range, of which values are drawn: say how many with --trials"),
    ],
)
def test_what_is_no_sweep(texts: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        trials_of([Axis.of(text) for text in texts], None, 0)


@pytest.fixture(autouse=True)
def _text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("t.txt").write_text("the cat sat on the mat. " * 60)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["lr=1"], "what is trained is missing; it stands after --"),
        (["lrr=1", "--", *TRAIN], "unknown option '--lrr'; did you mean '--lr'?"),
        (["lr=1,x", "--", *TRAIN], "--lr is 'x'; expected a number"),
        (["lr=-1..1", "--trials", "2", "--", *TRAIN], "lr is -1.0; expected a number above 0"),
        (["cell=gru,gruu", "--", *TRAIN], "unknown cell 'gruu'; did you mean 'gru'?"),
        (["cell=gru,own.py:Cell", "--", *TRAIN], "cell own.py:Cell: there is no file own.py"),
        (["steps=1,2", "--", *TRAIN], "--steps is swept, and given after -- too; leave it out there"),
        (["lr=1", "--", *TRAIN, "--out", "a"], "--out is of the sweep, before --; leave it out there"),
        (["learning-rate=1,2", "lr=3", "--", *TRAIN], "settings to sweep are lr, lr; expected some, each once"),
        (["learning_rate=1", "--", *TRAIN, "--lr", "2"], "--lr is swept, and given after -- too; leave it out there"),
        (["lr=1", "--", *TRAIN, "--learning_rate=2"], "--lr is swept, and given after -- too; leave it out there"),
        (["tied=true", "--", *TRAIN, "--no-tied"], "--tied is swept, and given after -- too; leave it out there"),
        (["lr=1", "--", *TRAIN, "--output-dir", "a"], "--out is of the sweep, before --; leave it out there"),
        (["lr=1", "--jobs", "0", "--", *TRAIN], "jobs is 0; expected at least 1"),
        (["lr=1..2", "--trials", "0", "--", *TRAIN], "trials is 0; expected at least 1"),
        (["lr=1,2", "--", "language-model", "--text", "u.txt"], "u.txt: no such file or folder; did you mean t.txt?"),
        (["text=t.txt,u.txt", "--", "language-model"], "u.txt: no such file or folder; did you mean t.txt?"),
        (["lr=1,2", "--", "language-model"], "name files or folders with --text FILE"),
        (["lr=1,2", "--", "forecaster", "--train", "t.txt", "--format", "csv"], "t.txt"),
    ],
)
def test_wrong_settings_are_told_before_anything_runs(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "--out", "s", *args]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not [*Path().glob("s/*.log"), *Path().glob("s/sweep.json")]


def test_a_sweep_runs_tells_what_failed_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    # tied weights of another size than the layers are found when a model is made
    command = [
        "sweep",
        "tied=true,false",
        "--out",
        "s",
        "--jobs",
        "2",
        "--",
        *TRAIN,
        "--embedding",
        "3",
        "--hidden",
        "4",
    ]
    assert main(command) == 1
    shown = capsys.readouterr()
    head, row = shown.out.splitlines()
    assert " ".join(head.split()) == "run kind tied steps loss bits best at"
    assert row.split()[:4] == ["s/tied=false", "language-model", "False", "4"]
    assert "failed: tied=true: error: embedding is 3; tied weights expect 4" in " ".join(shown.err.split())
    before = Path("s/tied=false/metrics.jsonl").read_text()
    assert main(command) == 1
    assert "2 trials, 1 of them finished before" in capsys.readouterr().err
    assert Path("s/tied=false/metrics.jsonl").read_text() == before
    assert [json.loads(line)["status"] for line in Path("s/finished.jsonl").read_text().splitlines()].count(0) == 1
    assert main([*command, "--seed", "1"]) == 2
    assert "s is a sweep of: everloop train language-model --text t.txt" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (["--threads=3", "--trust_code"], ["--threads", "3", "--device", "cpu", "--trust-code"]),
        (["--num-threads", "3", "--track", "a", "b"], ["--threads", "3", "--device", "cpu", "--track", "a", "b"]),
        ([], ["--threads", "7", "--device", "cpu"]),
    ],
)
def test_threads_and_what_a_run_does_not_keep(
    said: list[str], kept: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    class Process:
        returncode = 0

        def __init__(self, command: list[str], **settings: object) -> None:
            started.append(command[command.index("train") + 2 :])

        def poll(self) -> int:
            return 0

    monkeypatch.setattr("everloop.cli.sweep.subprocess.Popen", Process)
    monkeypatch.setattr("everloop.cli.sweep.torch.get_num_threads", lambda: 7)
    command = ["sweep", "lr=1e-3", "--out", "s", "--", "language-model", "--text", "t.txt", *said]
    assert main(command) == 0
    shared = [] if said else ["--threads", "7"]
    assert started.pop() == ["--text", "t.txt", *said, "--lr", "1e-3", "--out", "s/lr=1e-3", *shared]
    Path("s/finished.jsonl").unlink()
    Path("s/lr=1e-3").mkdir()
    Path("s/lr=1e-3/config.toml").touch()
    monkeypatch.setattr("everloop.cli.sweep._print", lambda *_: None)
    assert main(command) == 0
    assert started.pop() == ["--resume", "s/lr=1e-3", *kept]


HELD = ["sweep", "lr=1e-3,2e-3", "--out", "s", "--", *TRAIN, *SIZES]


def hold(folder: Path) -> Lock:
    """Return the lock of a run of the sweep that this process holds."""
    folder.mkdir(parents=True)
    (folder / "config.toml").touch()
    return Lock(folder)


def test_a_trial_that_another_process_trains_is_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everloop.cli.sweep._print", lambda *_: None)
    monkeypatch.setattr("everloop.cli.sweep.PATIENCE", 0.3)
    with hold(Path("s/lr=1e-3")):
        assert main(HELD) == 1
    said = capsys.readouterr().err
    owner = f"process {os.getpid()} on "
    assert said.count(f"lr=1e-3 is being trained by {owner}") == 1
    assert said.index("lr=1e-3 is being trained") < said.index("[1/2] lr=2e-3: done") < said.index("left out: lr=1e-3")
    assert f"left out: lr=1e-3 is still being trained by {owner}" in said
    assert "failed" not in said
    assert [line["run"] for line in read_lines(Path("s/finished.jsonl"))] == ["lr=2e-3"]


def test_a_sweep_that_waits_for_another_process_can_be_interrupted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Interrupt] = []
    enter = Interrupt.__enter__

    def entered(self: Interrupt) -> Interrupt:
        asked.append(self)
        return enter(self)

    monkeypatch.setattr(Interrupt, "__enter__", entered)
    monkeypatch.setattr("everloop.cli.sweep.PAUSE", 0.0)
    looks = iter([False, False, True])

    def sleep(_: float) -> None:
        asked[0].requested = next(looks)

    monkeypatch.setattr("everloop.cli.sweep.time.sleep", sleep)
    with hold(Path("s/lr=1e-3")), hold(Path("s/lr=2e-3")):
        assert main(HELD) == 130
    assert next(looks, None) is None
    assert "interrupted; the same command goes on" in capsys.readouterr().err


def test_a_trial_goes_on_once_another_process_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["sweep", "lr=1e-3", "--out", "s", "--", *TRAIN, *SIZES]
    assert main(command) == 0
    Path("s/finished.jsonl").unlink()
    lock = Lock(Path("s/lr=1e-3"))
    lock.__enter__()
    sleep = time.sleep
    looks = iter([False, False, True])

    def look(seconds: float) -> None:
        if next(looks, False):
            lock.__exit__()
        sleep(seconds)

    monkeypatch.setattr("everloop.cli.sweep.time.sleep", look)
    assert main(command) == 0
    assert next(looks, None) is None
    assert [line["status"] for line in read_lines(Path("s/finished.jsonl"))] == [0]


def test_what_a_crash_has_left_of_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", "lr=1e-3", "--out", "s", "--", *TRAIN, *SIZES]
    assert main(command) == 0
    finished = Path("s/finished.jsonl")
    finished.write_text('{"other": 1}\n{"run": "lr=1e-3", "sta')  # the line was cut off
    for noted in ("1 trial, 0 of them finished before", "1 trial, 1 of them finished before"):
        assert main(command) == 0
        assert noted in capsys.readouterr().err
    assert [line.get("run") for line in read_lines(finished)] == [None, "lr=1e-3"]
    for content, said in (('{"train": 3}\n', "s is a sweep of something else"), ('{"tr', "s is a sweep of something")):
        Path("s/sweep.json").write_text(content)
        assert main(command) == 2
        assert said in capsys.readouterr().err


def test_a_folder_holds_a_run_or_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *TRAIN, *SIZES, "--out", "r"]) == 0
    before = sorted(Path("r").iterdir())
    assert main(["sweep", "lr=1e-3", "--out", "r", "--", *TRAIN, *SIZES]) == 2
    assert "error: r holds a run; choose another --out" in capsys.readouterr().err
    assert sorted(Path("r").iterdir()) == before
    assert main(["sweep", "lr=1e-3", "--out", "s", "--", *TRAIN, *SIZES]) == 0
    before = sorted(Path("s").iterdir())
    assert main(["train", *TRAIN, *SIZES, "--out", "s"]) == 2
    assert "error: s holds a sweep; choose another folder, or one inside of it" in capsys.readouterr().err
    assert sorted(Path("s").iterdir()) == before
    Path("link").symlink_to("nowhere")
    assert main(["sweep", "lr=1e-3", "--out", "link", "--", *TRAIN, *SIZES]) == 2
    assert "link/.lock: link is a link that leads nowhere, or round in a circle" in capsys.readouterr().err


def test_the_table_in_a_narrow_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["sweep", "lr=1e-3", "--out", "s", "--", *TRAIN, *SIZES]) == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert "kind language-model  lr 0.001  steps 4  loss " in shown
    assert shown.startswith("s/lr=1e-3\n")


@pytest.mark.slow
def test_a_sweep_that_is_stopped_goes_on_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    steps = [each if each != "4" else "100000" for each in TRAIN]
    command = [
        "sweep",
        "lr=1e-3",
        "--out",
        "s",
        "--",
        *steps,
        "--hidden",
        "4",
        "--log-every",
        "1",
        "--validate",
        "100000",
    ]
    process = subprocess.Popen([sys.executable, "-m", "everloop", *command], stderr=subprocess.PIPE)
    metrics = Path("s/lr=1e-3/metrics.jsonl")
    _wait_for(metrics, process)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert b"interrupted; the same command goes on" in said
    made = len(metrics.read_text().splitlines())
    config = Path("s/lr=1e-3/config.toml")
    config.write_text(re.sub(r"\nsteps = \d+", f"\nsteps = {made + 3}", config.read_text()))
    assert main(command) == 0
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == list(range(1, made + 4))
    assert "[1/1] lr=1e-3: done" in capsys.readouterr().err


def test_a_training_ends_when_its_sweep_is_gone() -> None:
    steps = [each if each != "4" else "200000" for each in TRAIN]
    command = [sys.executable, "-m", "everloop.cli.child", "train", *steps, "--hidden", "4", "--out", "r"]
    process = subprocess.Popen([*command, "--log-every", "1"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    _wait_for(Path("r/metrics.jsonl"), process)
    assert process.poll() is None
    _, said = process.communicate(timeout=60)  # closes the pipe
    assert process.returncode == 130, said
    assert "interrupted after step" in said.decode()


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has written into a file."""
    end = time.monotonic() + 120
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None, f"it has ended, with {process.returncode}"
        assert time.monotonic() < end, f"{path} has not been written"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_sweep_that_is_killed_takes_its_trainings_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    steps = [each if each != "4" else "100000" for each in TRAIN]
    command = ["sweep", "lr=1e-3,2e-3", "--jobs", "2", "--out", "s", "--", *steps, "--hidden", "4", "--log-every", "1"]
    process = subprocess.Popen([sys.executable, "-m", "everloop", *command])
    runs = [Path(f"s/lr={value}") for value in ("1e-3", "2e-3")]
    for run in runs:
        _wait_for(run / "metrics.jsonl", process)
    process.kill()
    process.wait()
    for run in runs:  # the same command waits for them, and goes on
        config = run / "config.toml"
        made = read_lines(run / "metrics.jsonl")[-1]["step"]
        config.write_text(re.sub(r"\nsteps = \d+", f"\nsteps = {made + 2000}", config.read_text()))
    assert main(command) == 0
    assert "[2/2]" in capsys.readouterr().err


@pytest.mark.parametrize("ends", [("0.12345", "0.12349"), ("0.99", "0.9999"), ("9.994e-4", "9.9949e-4")])
def test_a_number_that_is_drawn_is_in_its_range(ends: tuple[str, str]) -> None:
    drawn = [float(Axis("x", ends, True).draw(random.Random(seed))) for seed in range(50)]
    assert all(float(ends[0]) <= value <= float(ends[1]) for value in drawn)


def test_a_sweep_whose_folder_cannot_be_written_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*given: Any) -> Any:
        raise PermissionError(13, "Permission denied", "s/.lock")

    monkeypatch.setattr("everloop.train.lock._opened", refused)
    assert main(["sweep", "--out", "s", "lr=1,2", "--", *TRAIN]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "s cannot be written: Permission denied; choose another --out, or a copy of the sweep" in said
