"""everloop check: says whether a cell is compiled, and returns 1 if it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from everloop.cli import main
from everloop.compiler.targets import llvm
from tests.layers.wrong import spoil_gradient, spoil_steps

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")

FILE = """
import torch
from everloop import Cell, H, I, param, state

class Sums(Cell):
    h = state(H)
    W, R = param(H, I), param(H, H)

    def step(self, x, h):
        return torch.tanh(x @ self.W.T + torch.cummax(h, -1).values @ self.R.T)
"""


def test_right_and_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["peephole-lstm", "--hidden", "6", "--length", "4", "--batch", "3"]
    for dtype in ("float32", "float64"):
        assert main(["check", *small, "--dtype", dtype]) == 0
        said = capsys.readouterr().out
        assert said.startswith("peephole-lstm is compiled\nagainst the step in float64, one row at a time")
        assert {line.split()[0] for line in said.splitlines()[2:]} == {"eager", "llvm"}
    spoil_gradient(monkeypatch, "d(p_i)")
    assert main(["check", *small]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if "DIFFERS" in line]
    assert [line[: line.index("DIFFERS")].split() for line in wrong] == [
        ["llvm", "gradient", "of", "cell.p_i"],
        ["llvm", "gradient", "of", "cell.p_i,", "by", "steps"],
    ]


def test_a_wrong_step(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    spoil_steps(monkeypatch)
    assert main(["check", "gru"]) == 1
    assert "GRU: what was compiled differs from the step" in capsys.readouterr().out


def test_a_cell_that_is_not_compiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sums.py").write_text(FILE)
    assert main(["check", f"{tmp_path}/sums.py:Sums"]) == 0
    said = capsys.readouterr().out
    assert "runs on eager, because the compiler does not know the operation 'cummax'" in said.splitlines()[0]
    assert "sums.py:10)" in said.splitlines()[0]
    assert said.splitlines()[-1].startswith("llvm   did not run: ")
    assert main(["check", "gru", "--batch", "0"]) == 2
    assert "batch is 0" in capsys.readouterr().err


FAULTY = """
import sys
import torch
from everloop import Cell, H, I, param, state

class Raises(Cell):
    h = state(H)
    W = param(H, I)
    def step(self, x, h):
        raise ValueError("no such thing\\nand more")

class Shape(Raises):
    def step(self, x, h):
        return h @ self.W.T

class Nothing(Raises):
    def step(self, x, h):
        pass

class Ends(Raises):
    def step(self, x, h):
        sys.exit(0)

class Asks(Raises):
    def __init__(self, *args, more, **options):
        super().__init__(*args, **options)
"""


@pytest.mark.parametrize("name", ["Raises", "Shape", "Nothing", "Ends", "Asks"])
def test_a_cell_that_raises_is_told_in_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "faulty.py").write_text(FAULTY)
    assert main(["check", f"{tmp_path / 'faulty.py'}:{name}"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("error: ")
    assert name in said[0]
    assert "faulty.py:" in said[0] or name == "Nothing"


def test_a_file_that_ends_the_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ends.py").write_text("raise SystemExit(0)\n")
    assert main(["check", f"{tmp_path / 'ends.py'}:X"]) == 2
    assert "cannot be loaded: SystemExit" in capsys.readouterr().err
