"""The program as a process: Ctrl-C, a reader that leaves, no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from everloop.cli import main
from everloop.train import Event, Stepped, train
from everloop.train.interrupt import Interrupt
from tests.train.small import BASE, SMALL, TEXT, small_model

VERSE = "the cat sat on the mat and the rat sat on the cat.\n" * 40
EVERLOOP = [sys.executable, "-m", "everloop"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_saves_and_says_how_to_resume(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "verse.txt").write_text(VERSE)
    endless = ["--text", "verse.txt", "--steps", "1000000", "--out", "run", *SMALL]
    command = [*EVERLOOP, "train", "language-model", *endless]
    metrics = tmp_path / "run" / "metrics.jsonl"
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if metrics.exists() and metrics.read_text().count("\n") > 5:
                break
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Resume with: everloop train language-model --resume run" in errors
    assert "Traceback" not in errors
    made = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert f"interrupted after step {made:,}" in errors
    monkeypatch.chdir(tmp_path)
    assert main(["train", "language-model", "--resume", "run", "--steps", str(made + 3)]) == 0
    assert f"resuming after step {made:,}" in capsys.readouterr().err
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines() if '"train"' in line]
    assert steps == list(range(1, made + 4))


def test_a_second_ctrl_c_says_how_to_resume_too(tmp_path: Path) -> None:
    seen: list[str] = []

    def twice(event: Event) -> None:
        seen.append(str(event))
        if isinstance(event, Stepped) and event.step == 8:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(small_model(), TEXT, BASE, out=tmp_path / "run", report=twice)
    command = f"everloop train language-model --resume {tmp_path / 'run'}"
    assert seen[-1] == f"interrupted at once; from the last checkpoint on: {command}"
    assert train(small_model(), TEXT, out=tmp_path / "run", resume=True).step == 12


def test_a_closed_terminal_is_ignored_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_while_libraries_are_imported(tmp_path: Path) -> None:
    """A library that swallows the exception must not keep the program from ending, quietly."""
    rude = "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n    pass\n"
    (tmp_path / "rude.py").write_text(rude + "raise SystemExit(7)\n")
    code = "from everloop.cli import importing\nwith importing():\n    import rude"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"")


def test_the_hint_to_resume_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "verse.txt").write_text(VERSE)
    monkeypatch.setattr("everloop.train.interrupt.Interrupt.__enter__", _asked)
    assert main(["train", "language-model", "--text", "verse.txt", "--steps", "2", "--out", "my run", *SMALL]) == 130
    shown = capsys.readouterr()
    assert "Resume with: everloop train language-model --resume 'my run'" in shown.err
    assert "everloop sample 'my run'" in shown.out


def _asked(interrupt: Interrupt) -> Interrupt:
    interrupt.requested = True
    return interrupt


def test_a_reader_that_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "verse.txt").write_text(VERSE)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "language-model", "--text", "verse.txt", "--steps", "2", "--out", "run", *SMALL]) == 0
    shown = capsys.readouterr()
    assert "\x1b[" not in shown.out + shown.err
    with subprocess.Popen(
        [*EVERLOOP, "sample", "run", "--length", "1000000"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdout
        assert process.stderr
        assert len(process.stdout.read(5)) > 0  # arrives although the sample is far from done
        process.stdout.close()
        assert process.wait(timeout=30) == 141
        assert process.stderr.read() == b""
