"""Threads that split columns: a thread that waits long sleeps, and is woken."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from pathlib import Path
import torch
from everloop.compiler.time_axis import TimeAxis
from everloop.compiler.targets import llvm
from everloop.compiler.targets.llvm import barrier, launch, machine
from tests.compiler.targets import loops

barrier.SPINS = int(sys.argv[1])
llvm.object_code = lambda what, dtype, isa, text: machine.generate(text(), isa)
torch.set_num_threads(2)
B, T, H = 2, 300, 70
run = llvm.compile(loops.gru(H).of(torch.float64))
x, h = torch.randn(T, B, 3 * H, dtype=torch.float64), torch.randn(B, H, dtype=torch.float64)
R, U = (torch.randn(n * H, H, dtype=torch.float64) / H**0.5 for n in (2, 1))
found = []
for team in (1, False), (2, True):
    launch.NativeKernel.team = lambda self, T, B, useful=None: team
    y = torch.empty(T, B, H, dtype=torch.float64)
    run(TimeAxis(T, B), {"x": x, "R": R, "U": U, "y": y}, first={"h": h})
    found.append(y)
assert torch.equal(*found)
lines = (line for status in Path("/proc/self/task").glob("*/status") for line in status.read_text().splitlines())
print(sum(int(line.split()[1]) for line in lines if line.startswith("voluntary")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts switches as Linux does")
def test_a_thread_that_waits_sleeps_and_is_woken() -> None:
    """In a process of its own: a thread that nobody wakes would wait for ever."""

    def switches(spins: int) -> int:
        args = [sys.executable, "-c", SCRIPT, str(spins)]
        return int(subprocess.run(args, capture_output=True, text=True, timeout=60, check=True).stdout)

    always, never = switches(-1), switches(1 << 40)
    assert always > never + 100, "300 steps of two products, and at each of them one thread comes first"
