"""Several processes train what one would: the same losses, killed and resumed by another number of them."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.train.group import Group
from tests.train.test_killed import write_data

NOISE = {"dropout": 0.2, "weight_drop": 0.2, "recurrent_dropout": 0.1, "variational_dropout": 0.1, "zoneout": "h 0.1"}
USUAL = {"steps": 24, "batch": 12, "hidden": 8, "lr": 0.01, "validate": 6, "log_every": 2, "threads": 1, "seed": 5}
CONSTANT: dict[str, Any] = {"schedule": "constant", "warmup": 2}  # of more steps, the first ones are the same
HELD_OUT = {"columns": "text label", "hold_out": "0.3 0"}
EVERY = math.lcm(int(USUAL["log_every"]), int(USUAL["validate"]))
KINDS: dict[str, dict[str, Any]] = {
    "language-model": {"text": "verse.txt", "units": "words", "length": 9, "cell": "lstm", "ema_decay": 0.9},
    "classifier": {"train": "films.tsv", **HELD_OUT, "word_dropout": 0.2, "label_smoothing": 0.1, "layers": 2},
    "translator": {
        "source": "a.txt", "target": "b.txt", "valid_source": "b.txt", "valid_target": "a.txt", "embedding": 6,
        "teacher_forcing": 0.5, "teacher_forcing_steps": 10, "accumulate": 2,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    with Group() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(tmp_path)
    return tmp_path


def begin(kind: str, run: str = "run", **settings: Any) -> list[str]:
    """Return the command that begins a run."""
    options = {**USUAL, **NOISE, **KINDS[kind], "out": run, **settings}
    return ["train", kind, *" ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items()).split()]


def losses(run: Path) -> dict[str, float]:
    """Return the figures of the metrics of a run by split and step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len({(line["split"], line["step"]) for line in lines}) == len(lines)
    return {
        f"{line['split']} {line['step']} {name}": line[name]
        for line in lines
        for name in ("loss", "norm")
        if name in line
    }


def said(folder: Path) -> str:
    return (folder / "said.txt").read_text()


def assert_same(run: Path, whole: Path) -> None:
    expected = losses(whole)
    assert losses(run) == pytest.approx(expected, rel=1e-6)
    assert len(expected) > 20


@pytest.mark.parametrize("kind", KINDS)
def test_two_and_three_processes_train_what_one_does(kind: str, group: Group, folder: Path) -> None:
    assert group.run(begin(kind, "whole"), folder, world=1) == [0], said(folder)
    for world in (2, 3):
        assert group.run(begin(kind, f"run{world}"), folder, world=world) == [0] * world, said(folder)
        assert_same(folder / f"run{world}", folder / "whole")
    assert said(folder).count("finished 24 steps") == 1


@pytest.mark.parametrize(
    ("number", "statuses", "line"),
    [
        (signal.SIGKILL, [2, 2, -signal.SIGKILL, 2], "error: another of the processes that train this run has ended"),
        (signal.SIGTERM, [130] * 4, "interrupted after step "),
    ],
)
def test_one_gets_a_signal_and_all_end(number: int, statuses: list[int], line: str, group: Group, folder: Path) -> None:
    endless = begin("language-model", **CONSTANT, steps=5000)
    found = group.run(endless, folder, world=4, end=(2, number), lines=9)
    assert found == statuses, said(folder)
    assert said(folder).count(line) == 1
    assert said(folder).count("error: ") == line.count("error: ")
    assert ("torchrun --nproc-per-node 4 -m everloop train language-model --resume run" in said(folder)) == (
        number == signal.SIGTERM
    )
    reached = max(int(name.split()[1]) for name in losses(folder / "run"))
    second = EVERY * (reached // EVERY + 1)  # where all that a run writes ends
    go_on = ["train", "language-model", "--resume", "run", "--threads", "1"]
    assert group.run([*go_on, "--steps", str(second)], folder, world=2) == [0, 0], said(folder)
    assert group.run([*go_on, "--steps", str(second + EVERY)], folder, world=1) == [0], said(folder)
    whole = begin("language-model", "whole", **CONSTANT, steps=second + EVERY)
    assert group.run(whole, folder, world=1) == [0], said(folder)
    assert losses(folder / "run") == pytest.approx(losses(folder / "whole"), rel=1e-6)


def torchrun(world: int, args: Sequence[str], folder: Path, *options: str) -> subprocess.Popen[str]:
    """Begin `torchrun -m everloop ARGS`, or with options of torchrun `torchrun OPTIONS ARGS`; see `said.txt`."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with (folder / "said.txt").open("a") as file:
        command = [*launcher, *(options or ("-m", "everloop")), *args]
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file, text=True)


def kill_one(process: subprocess.Popen[str], rank: int, folder: Path) -> None:
    """Kill a process of a torchrun once its run has more than 12 lines of metrics."""
    metrics = folder / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") > 12):
        assert process.poll() is None, said(folder)
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[rank]), signal.SIGKILL)


def test_why_the_first_of_them_ends_is_said_and_not_that_it_has(folder: Path) -> None:
    """Files may have 8 blocks here, which the weights of a checkpoint do not fit into."""
    command = shlex.join([sys.executable, "-m", "everloop", *begin("language-model", hidden=48)])
    (folder / "train.sh").write_text(f"ulimit -f 8; exec {command}\n")
    assert torchrun(2, ["bash", "train.sh"], folder, "--no-python").wait(60) == 1
    errors = [line for line in said(folder).splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said(folder)
    assert "safetensors: File too large" in errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_200_steps_with_torchrun_and_one_killed(kind: str, folder: Path) -> None:
    settings: dict[str, Any] = {**CONSTANT, "steps": 200, "validate": 20, "log_every": 10, "lr": 0.003}
    for world in (1, 2, 4):
        process = torchrun(world, begin(kind, f"run{world}", **settings), folder)
        assert process.wait(120) == 0, said(folder)
    expected = losses(folder / "run1")
    for world in (2, 4):
        assert losses(folder / f"run{world}") == pytest.approx(expected, rel=1e-6)
    process = torchrun(4, begin(kind, **settings), folder)
    kill_one(process, 3, folder)
    began = time.monotonic()
    assert process.wait(60) == 1
    assert time.monotonic() - began < 10
    assert said(folder).count("error: another of the processes that train this run has ended") == 1
    go_on = ["train", kind, "--resume", "run", "--threads", "1"]
    assert torchrun(2, [*go_on, "--steps", "160"], folder).wait(120) == 0, said(folder)
    assert torchrun(1, [*go_on, "--steps", "200"], folder).wait(120) == 0, said(folder)
    assert losses(folder / "run") == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_torchrun_starts_them_again(folder: Path) -> None:
    settings = {**CONSTANT, "steps": 200, "validate": 20, "log_every": 10, "lr": 0.003}
    assert torchrun(1, begin("language-model", "whole", **settings), folder).wait(120) == 0, said(folder)
    go_on = f"{sys.executable} -m everloop train language-model --resume run --threads 1"
    anew = shlex.join([sys.executable, "-m", "everloop", *begin("language-model", **settings)])
    (folder / "train.sh").write_text(f"if [ -e run/config.toml ]; then exec {go_on}; else exec {anew}; fi\n")
    process = torchrun(2, ["bash", "train.sh"], folder, "--max-restarts", "3", "--no-python")
    kill_one(process, 1, folder)
    assert process.wait(120) == 0, said(folder)
    assert "resuming after step" in said(folder)
    assert losses(folder / "run") == pytest.approx(losses(folder / "whole"), rel=1e-6)
