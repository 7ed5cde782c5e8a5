"""A full disk: the error names the file, and what was written before is whole."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from everloop.cli import main
from everloop.data.ragged import RaggedArray
from everloop.models import load
from everloop.train import train
from tests.train.small import BASE, TEXT, small_model, weights

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")


class Full:
    """A disk that is full from the file of this name on."""

    def __init__(self, name: str, after: int = 0) -> None:
        self.name, self.after, self.make = name, after, tempfile.mkstemp

    def __call__(self, *, dir: Path, prefix: str, suffix: str = "") -> tuple[int, str]:  # noqa: A002 - mkstemp's name
        if self.name in prefix:
            self.after -= 1
            if self.after < 0:
                return os.open("/dev/full", os.O_WRONLY), str(dir / "none")
        return self.make(dir=dir, prefix=prefix, suffix=suffix)


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors", "config.toml", "vocabulary.json"])
def test_a_file_of_a_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(small_model(), TEXT, BASE, out=tmp_path / "run")
    kept = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    before = weights(load(run, "last"))
    monkeypatch.setattr(tempfile, "mkstemp", Full(name))
    with pytest.raises(OSError, match="No space left on device") as told:
        train(small_model(), TEXT, BASE, out=tmp_path / "run", resume=True, steps=40, lr=0.3)
    assert told.value.errno == errno.ENOSPC
    assert told.value.filename == str(tmp_path / "run" / name)
    monkeypatch.undo()
    assert (tmp_path / "run" / name).read_bytes() == kept[name]
    assert not list((tmp_path / "run").glob(".*.*"))  # no half files
    if name != "best.safetensors":
        assert all(torch.equal(a, b) for a, b in zip(weights(load(run, "last")), before, strict=True))
    assert train(small_model(), TEXT, BASE, out=tmp_path / "run", resume=True, steps=20).step == 20


def test_metrics(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as told:
        train(small_model(), TEXT, BASE, out=tmp_path / "run")
    assert told.value.filename == str(tmp_path / "run" / "metrics.jsonl")
    load(tmp_path / "run", "last")


def test_the_command_says_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("verse.txt").write_text("the cat sat on the mat.\n" * 40)
    sizes: dict[str, Any] = {"steps": 2, "batch": 2, "length": 8, "hidden": 4, "layers": 1, "threads": 1}
    small = [part for key, value in sizes.items() for part in (f"--{key}", str(value))]
    monkeypatch.setattr(tempfile, "mkstemp", Full("samples.txt"))
    assert main(["train", "language-model", "--text", "verse.txt", *small, "--out", "run"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: run/samples.txt: No space left on device"
    monkeypatch.setattr(tempfile, "mkstemp", Full("last.safetensors", after=1))
    assert main(["train", "language-model", "--text", "verse.txt", *small, "--out", "two"]) == 2
    *_, kept, error = capsys.readouterr().err.splitlines()
    assert kept == "what was saved is whole; once this is mended: everloop train language-model --resume two"
    assert error == "error: two/last.safetensors: No space left on device"
    monkeypatch.setattr(tempfile, "mkstemp", Full("last.safetensors"))
    assert main(["train", "language-model", "--text", "verse.txt", *small, "--out", "three"]) == 2
    assert "--resume" not in capsys.readouterr().err  # there is nothing yet


def test_standard_output(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "everloop", "show", "gru"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: standard output: No space left on device\n")


def test_what_is_kept_of_large_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda prefix: os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb"))
    shelf = RaggedArray(spill=64)
    with pytest.raises(OSError, match="No space left on device") as told:
        shelf.append(range(100_000))
    assert told.value.filename == f"temporary file in {tempfile.gettempdir()} (TMPDIR names another folder)"
