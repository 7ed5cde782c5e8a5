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
        return torch.tanh(x @ self.W.T + torch.cumsum(h, -1) @ self.R.T)
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
    assert [line[: line.index("DIFFERS")].split() for line in wrong] == [["llvm", "gradient", "of", "cell.p_i"]]


def test_a_wrong_step(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    spoil_steps(monkeypatch)
    assert main(["check", "gru"]) == 1
    assert "GRU: what was compiled differs from the step" in capsys.readouterr().out


def test_a_cell_that_is_not_compiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sums.py").write_text(FILE)
    assert main(["check", f"{tmp_path}/sums.py:Sums"]) == 0
    said = capsys.readouterr().out
    assert "runs on eager, because the compiler does not know the operation 'cumsum'" in said.splitlines()[0]
    assert "sums.py:10)" in said.splitlines()[0]
    assert said.splitlines()[-1].startswith("llvm   did not run: ")
    assert main(["check", "gru", "--batch", "0"]) == 2
    assert "batch is 0" in capsys.readouterr().err
