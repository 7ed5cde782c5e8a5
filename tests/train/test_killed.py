"""A process killed at any moment loses nothing: resumed, it comes to the bits of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from tests.train.forked import Forks

USUAL = {"steps": 16, "batch": 4, "hidden": 8, "lr": 0.02, "validate": 3, "log_every": 2, "threads": 1, "seed": 5}
NOISE = {"dropout": 0.2, "weight_drop": 0.2, "recurrent_dropout": 0.1}
LANGUAGE = {"text": "verse.txt", "units": "words", "length": 9, "cell": "lstm", **NOISE}
HELD_OUT = {"train": "films.tsv", "columns": "text label", "hold_out": "0.3 0"}
VALID = {"valid_source": "b.txt", "valid_target": "a.txt"}
NT_ASGD = {"optimiser": "sgd", "momentum": 0.5, "lr": 0.5, "average_after": 1, "schedule": "constant"}
KINDS: dict[str, dict[str, Any]] = {
    "language-model": {**LANGUAGE, "schedule": "plateau", "plateau": 1, "ema_decay": 0.9, "clip_value": 0.5},
    "classifier": {**HELD_OUT, "word_dropout": 0.2, "label_smoothing": 0.1, "early_stop": 9, **NOISE, **NT_ASGD},
    "translator": {
        "source": "a.txt",
        "target": "b.txt",
        **VALID,
        "embedding": 6,
        **NOISE,
        "optimiser": "rmsprop",
        "accumulate": 2,
    },
}
VERSE = "the cat sat on the mat and the rat sat on the cat.\n"
LETTERS = "abcdefgh"


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(tmp_path)
    return tmp_path


def write_data(folder: Path) -> None:
    """Write what each kind learns from."""
    draw = random.Random(3)
    (folder / "verse.txt").write_text("".join(draw.sample(VERSE, len(VERSE))[0] + VERSE for _ in range(60)))
    films = (f"{'good' if i % 2 else 'bad'} film {i % 7}{' indeed' * (i % 3)}\t{i % 2}\n" for i in range(60))
    (folder / "films.tsv").write_text("".join(films))
    words = [" ".join(draw.choices(LETTERS, k=draw.randint(1, 6))) for _ in range(30)]
    (folder / "a.txt").write_text("".join(f"{line}\n" for line in words))
    (folder / "b.txt").write_text("".join(f"{line[::-1]}\n" for line in words))


def begin(kind: str, run: str) -> list[str]:
    """Return the command that begins a run."""
    settings = {**USUAL, **KINDS[kind], "out": run}
    options = (f"--{name.replace('_', '-')} {value}" for name, value in settings.items())
    return ["train", kind, *" ".join(options).split()]


def go_on(kind: str, folder: Path, run: str = "run") -> list[str]:
    """Return the command that begins a run, or goes on with one if there is one."""
    begun = (folder / run / "config.toml").exists()
    return ["train", kind, "--resume", run, "--threads", "1"] if begun else begin(kind, run)


def contents(file: Path) -> dict[str, Any]:
    """Return the bytes of each tensor of a file, and its facts besides the time that went by."""
    with safe_open(file, "pt") as opened:
        held = {name: opened.get_tensor(name).numpy().tobytes() for name in opened.keys()}  # noqa: SIM118
        facts = json.loads(opened.metadata()["facts"])
    return {**held, "facts": {name: value for name, value in facts.items() if name != "seconds"}}


def outcome(run: Path) -> dict[str, Any]:
    """Return all that a run came to, besides times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    metrics = [{name: value for name, value in line.items() if name not in ("rate", "seconds")} for line in lines]
    files = {path.name: contents(path) for path in run.glob("*.safetensors")}
    return {"metrics": metrics, "names": sorted(path.name for path in run.iterdir()), **files}


def left_alone(forks: Forks, kind: str, folder: Path) -> tuple[dict[str, Any], float]:
    """Return what a run that nobody kills comes to, and the seconds that it takes once its kernels are compiled."""
    assert forks.run([*begin(kind, "first"), "--steps", "3"], folder) == 0, (folder / "said.txt").read_text()
    began = time.monotonic()
    assert forks.run(begin(kind, "whole"), folder) == 0, (folder / "said.txt").read_text()
    return outcome(folder / "whole"), time.monotonic() - began


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    return [name for name in {**a, **b} if a.get(name) != b.get(name)]


def killed_again_and_again(forks: Forks, kind: str, folder: Path, moments: int, seed: int = 0) -> int:
    """Kill a run at random moments until it has died so often; return how often it had made something by then."""
    expected, seconds = left_alone(forks, kind, folder)
    draw, died, before = random.Random(seed), 0, 0
    while died < moments:
        begun = (folder / "run" / "last.safetensors").exists()
        status = forks.run(go_on(kind, folder), folder, after=draw.uniform(0, seconds))
        assert status in (0, None), (folder / "said.txt").read_text()
        died, before = died + (status is None), before + begun
        if status == 0:  # it has come to its end
            assert differing(outcome(folder / "run"), expected) == []
            shutil.rmtree(folder / "run")
    assert forks.run(go_on(kind, folder), folder) == 0, (folder / "said.txt").read_text()
    assert differing(outcome(folder / "run"), expected) == []
    return before


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_three_random_moments(kind: str, forks: Forks, folder: Path) -> None:
    killed_again_and_again(forks, kind, folder, 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_twenty_random_moments(kind: str, forks: Forks, folder: Path) -> None:
    assert killed_again_and_again(forks, kind, folder, 20, seed=1) > 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_each_change_of_its_folder(kind: str, forks: Forks, folder: Path) -> None:
    expected, _ = left_alone(forks, kind, folder)
    at, status = 0, None
    while status is None:
        at += 1
        shutil.rmtree(folder / "run", ignore_errors=True)
        status = forks.run(begin(kind, "run"), folder, at=at)
        if status is None:
            assert forks.run(go_on(kind, folder), folder) == 0, (at, (folder / "said.txt").read_text())
        assert differing(outcome(folder / "run"), expected) == [], at
    assert at > 40


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_is_full_in_the_middle_of_a_file(kind: str, forks: Forks, folder: Path) -> None:
    expected, _ = left_alone(forks, kind, folder)
    last = (folder / "whole" / "last.safetensors").stat().st_size
    for largest in (last // 2, last - 1):
        shutil.rmtree(folder / "run", ignore_errors=True)
        assert forks.run(begin(kind, "run"), folder, largest=largest) == 2
        assert "run/last.safetensors: File too large" in (folder / "said.txt").read_text()
        assert forks.run(go_on(kind, folder), folder) == 0, (folder / "said.txt").read_text()
        assert differing(outcome(folder / "run"), expected) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can take another user's rights")
def test_a_folder_that_cannot_be_written(forks: Forks) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        write_data(folder)
        assert forks.run(begin("classifier", "run"), folder) == 0
        before = outcome(folder / "run")
        (folder / "said.txt").chmod(0o666)
        folder.chmod(0o555)
        assert forks.run([*go_on("classifier", folder), "--steps", "30"], folder, user=65534) == 2
        told = "run cannot be written: Permission denied; choose another folder, or resume a copy of the run"
        assert (folder / "said.txt").read_text() == f"error: {told}\n"
        assert differing(outcome(folder / "run"), before) == []
