"""What a call has to do at least is counted, and layers that are compared are what their names say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import memory, work
from benchmarks.cells import of_the_peak
from everloop import cells
from everloop.compiler.targets import llvm
from everloop.compiler.targets.llvm import gemm
from everloop.layers import Recurrent, torch_nn


@pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
def test_what_a_call_does_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "has_quick_mkl", lambda: False)  # where MKL makes the input's product, it is not counted
    layer, x = Recurrent(cells.Elman(64, 64)), torch.randn(16, 4, 64)
    with torch.no_grad():
        found = work.work_of(lambda: layer(x))
    # The input's product, the recurrent one and one addition; inputs read and outputs written.
    assert found.operations == 16 * 4 * (2 * 64 * 64 + 2 * 64 * 64 + 64)
    assert (found.states, found.sequences) == ([(4 * 4 * 64, 16)], [4 * 16 * 4 * (64 + 64)])
    assert found.arithmetic() > 0
    assert found.memory() > 0


def test_the_larger_share_is_told() -> None:
    assert of_the_peak({"a": 0.5, "m": 0.25}) == "50% a"
    assert of_the_peak({"a": 0.5, "m": 0.75}) == "75% m"


def test_states_are_kept_at_all_steps_or_as_the_layer_chooses() -> None:
    kept = {how: memory.layer_of("mlstm", how, 16).recompute for how in ("all", "some")}
    assert kept == {"all": 0, "some": None}
    assert [type(memory.layer_of("GRU", how, 4)) for how in ("ours", "theirs")] == [torch_nn.GRU, torch.nn.GRU]


@pytest.mark.skipif(sys.platform != "linux", reason="where a process is told its own peak")
def test_the_peak_of_a_process_is_not_that_of_the_one_that_started_it() -> None:
    held = bytearray(b"1") * (1 << 30)
    command = [sys.executable, "-c", "from benchmarks.memory import peak; print(peak())"]
    found = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True).stdout
    assert len(held) == 1 << 30
    assert 1 < float(found) < 1 << 10
