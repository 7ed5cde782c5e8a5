"""Two processes never train one run: the second is refused, whatever became of the first the lock ends with it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from everloop.cli import main
from everloop.cli.output import new_folder
from everloop.cli.train import fresh
from everloop.errors import RunError
from everloop.train import Event, Stepped, train
from everloop.train.lock import Lock
from tests.train.small import BASE, SMALL, TEXT, small_model

HERE = f"process {os.getpid()} on {socket.gethostname()}"


def lines_of(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines() if "train" in line]


def test_a_run_in_training_is_refused_until_its_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("verse.txt").write_text("the cat sat on the mat and the rat sat on the cat.\n" * 40)
    endless = ["train", "language-model", "--text", "verse.txt", "--steps", "1000000", "--out", "run", *SMALL]
    with subprocess.Popen([sys.executable, "-m", "everloop", *endless], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not Path("run/metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert main(["train", "language-model", "--resume", "run", "--steps", "2000000"]) == 2
        shown = capsys.readouterr().err
        owner = f"process {process.pid} on {socket.gethostname()}"
        assert shown == f"error: run is being trained by {owner}; wait until it ends, or stop it\n"
        assert main(endless) == 2
        assert "run already holds a run" in capsys.readouterr().err
        assert main(["sample", "run", "the", "--length", "3", "--weights", "last"]) == 0  # reading is free
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert Path("run/.lock").read_text().strip() == owner  # the dead process could not tidy up
    last = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert main(["train", "language-model", "--resume", "run", "--steps", str(last + 2)]) == 0
    assert lines_of(Path("run")) == list(range(1, last + 3))


def test_two_runs_of_one_process(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def resume(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 4:
            with pytest.raises(RunError, match=f"run is being trained by {HERE}"):
                train(small_model(), TEXT, BASE, out=run, resume=True)
            seen.append(event)

    seen: list[Event] = []
    train(small_model(), TEXT, BASE, out=run, report=resume)
    assert len(seen) == 1
    assert lines_of(run) == [4, 8, 12]
    assert (run / ".lock").read_text() == ""
    train(small_model(), TEXT, BASE, out=run, resume=True, steps=16)


def test_a_run_that_begins_while_the_data_is_read(tmp_path: Path) -> None:
    """Both saw an empty folder; the second must not write over what the first has made meanwhile."""

    class Slow:
        def __getattr__(self, name: str) -> Any:
            if name == "epoch" and not (tmp_path / "run").exists():
                train(small_model(), TEXT, BASE, out=tmp_path / "run")
            return getattr(TEXT, name)

    with pytest.raises(RunError, match="already holds a run"):
        train(small_model(), Slow(), BASE, out=tmp_path / "run")


def test_runs_that_begin_together_take_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("verse.txt").write_text("the cat sat on the mat and the rat sat on the cat.\n" * 40)

    def beside(*args: Any) -> Any:
        (Path("runs/language-model")).mkdir(parents=True)  # another one begins while the data is read
        return fresh(*args)

    monkeypatch.setattr("everloop.cli.train.fresh", beside)
    assert main(["train", "language-model", "--text", "verse.txt", "--steps", "2", *SMALL]) == 0
    assert "finished 2 steps in runs/language-model-2" in capsys.readouterr().err


def test_a_new_folder_goes_again_where_nothing_is_written(tmp_path: Path) -> None:
    name = tmp_path / "runs" / "a"
    with new_folder(name) as first, new_folder(name) as second, new_folder(name) as third:
        assert [first, second, third] == [name, tmp_path / "runs" / "a-2", tmp_path / "runs" / "a-3"]
        (second / "kept").touch()
    assert [*(tmp_path / "runs").iterdir()] == [second]
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError), new_folder(tmp_path / "file" / "a"):
        pass


def test_the_lock_of_a_dead_process_and_of_a_copied_folder(tmp_path: Path) -> None:
    with Lock(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text().strip() == HERE
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        with Lock(tmp_path / "copy"):
            pass
        with pytest.raises(RunError, match=HERE), Lock(tmp_path / "run"):
            pass
    with Lock(tmp_path / "run"):
        pass


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    told: list[str] = []
    train(small_model(), TEXT, BASE, out=tmp_path / "run", report=lambda event: told.append(str(event)))
    assert "is on a file system without locks" in told[0]


def test_a_lock_file_that_is_another_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    precious, run = tmp_path / "precious.txt", tmp_path / "run"
    precious.write_text("precious")
    run.mkdir()
    makers = (
        lambda at: at.symlink_to(precious),
        lambda at: at.hardlink_to(precious),
        lambda at: at.mkdir(),
        lambda at: os.mkfifo(at),
        lambda at: at.write_text("mine"),
    )
    for make in makers:
        make(run / ".lock")
        with pytest.raises(RunError, match="where the lock file of a run is expected; remove it"), Lock(run):
            pass
        assert precious.read_text() == "precious"
        (run / ".lock").rmdir() if (run / ".lock").is_dir() else (run / ".lock").unlink()
    for _ in range(2):
        with Lock(run):
            assert (run / ".lock").read_text().startswith("process ")
    assert (run / ".lock").read_text() == ""
