"""Other loops: several products a step, products of sequences and into sequences, reductions, totals; threads."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop.compiler.loop import Buffer, Loop, Product
from everloop.compiler.targets import llvm
from everloop.compiler.targets.llvm import launch, machine, threads
from everloop.compiler.targets.llvm.layout import may_halve
from everloop.compiler.time_axis import TimeAxis
from tests.compiler.targets import loops, references
from tests.compiler.targets.test_llvm_lstm import ISAS, check, close, poisoned

F64 = torch.float64


def gru(
    H: int,
    B: int,
    T: int,
    isa: str | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reverse: bool = False,
) -> None:
    x, first, again = torch.randn(T, B, 3 * H, dtype=F64), torch.randn(B, H, dtype=F64), torch.randn(H, dtype=F64)
    R, U = torch.randn(2 * H, H, dtype=F64) / H**0.5, torch.randn(H, H, dtype=F64) / H**0.5
    y, last = poisoned(T, B, H, dtype=F64), poisoned(B, H, dtype=F64)
    buffers = {"x": x, "R": R, "U": U, "y": y}
    llvm.compile(loops.gru(H).of(F64), isa)(
        TimeAxis(T, B, lengths, reset, reverse),
        buffers,
        first={"h": first},
        final={"h": last},
        restart={"h": again},
    )
    ends = [T] * B if lengths is None else lengths.tolist()
    want, want_last = references.run(references.gru(R, U), x, (first,), (again,), ends, reset, reverse, H)
    close(y, want, T, H)
    close(last, want_last[0], T, H)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("H", "B", "T"), [(1, 2, 3), (17, 7, 5), (100, 33, 2)])
def test_gru_reset_before(H: int, B: int, T: int, isa: str) -> None:
    gru(H, B, T, isa, lengths=torch.randint(0, T + 1, (B,)), reset=torch.rand(T, B) < 0.3, reverse=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("H", [1, 3, 40])
def test_input_product_row_bias_and_projection(H: int, isa: str) -> None:
    B, T = 4, 3
    x, row, b = torch.randn(B, T, 5).transpose(0, 1), torch.randn(B, H), torch.randn(H)
    W, R, V = torch.randn(H, 5), torch.randn(H, H).T / H**0.5, torch.randn(3, 2 * H)[:, ::2]
    y = poisoned(T, B, 3, dtype=torch.float32, batch_first=True)
    buffers = {"x": x, "W": W, "R": R, "b": b, "row": row, "V": V, "y": y}
    llvm.compile(loops.rnn(H).of(torch.float32), isa)(TimeAxis(T, B), buffers)  # states start from zero and end nowhere
    h, want = torch.zeros(B, H), []
    for t in range(T):
        h = (h @ R.T + x[t] @ W.T + b + row).tanh()
        want.append(h @ V.T)
    close(y, torch.stack(want), T, H, 4)


def written_and_read(H: int, is_gradient: bool) -> Loop:
    """e = tanh(x + h), y = e * e, h = R e."""
    h, x, R = Buffer("h", "state", H), Buffer("x", "sequence", H), Buffer("R", "matrix", H, H)
    e, y = Buffer("e", "emit", H), Buffer("y", "emit", H)
    first, second = loops.Lines(), loops.Lines()
    first.store(first.tanh(first.add(first.load(x), first.load(h))), e)
    again = second.load(e)
    second.store(second.mul(again, again), y)
    return Loop((first.map(H), second.map(H), Product(h, e, R)), (h,), is_gradient)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("H", [2, 16, 37])
def test_what_a_gradient_loop_writes_in_bfloat16_it_reads_in_full(H: int, isa: str) -> None:
    B, T, loop = 4, 3, written_and_read(H, is_gradient=True)
    assert may_halve(loop, ["e"]) == {"e"}
    assert not may_halve(written_and_read(H, is_gradient=False), ["e"])
    given = {"x": torch.randn(T, B, H), "R": torch.randn(H, H) / H**0.5}
    found = []
    for halves in (frozenset[str](), frozenset({"e"})):
        e = poisoned(T, B, H, dtype=torch.bfloat16 if halves else torch.float32)
        y, last = (poisoned(*shape, dtype=torch.float32) for shape in ((T, B, H), (B, H)))
        kernel = llvm.compile(loop.of(torch.float32), isa, is_narrow=True, halves=halves)
        kernel(TimeAxis(T, B), {**given, "e": e, "y": y}, final={"h": last})
        found.append((e, y, last))
    (wide, *results), (low, *same) = found
    assert torch.equal(low, wide.to(torch.bfloat16))
    assert all(map(torch.equal, results, same))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("H", [1, 3, 16, 37])
def test_reductions_and_totals(H: int, isa: str) -> None:
    B, T = 5, 4
    x, R = torch.randn(T, B, H, dtype=F64), torch.randn(H, H, dtype=F64)
    lengths = torch.tensor([4, 0, 2, 3, 4])
    y, top = poisoned(T, B, H, dtype=F64), poisoned(T, B, 1, dtype=F64)
    squares, seen = poisoned(B, H, dtype=F64), poisoned(1, dtype=F64)
    buffers = {"x": x, "R": R, "y": y, "top": top, "squares": squares, "seen": seen}
    llvm.compile(loops.normalised(H).of(F64), isa)(TimeAxis(T, B, lengths), buffers)
    zero = torch.zeros(B, H, dtype=F64)
    want, _ = references.run(references.normalised(R), x, (zero,), (zero[0],), lengths.tolist(), None, False, H + 1)
    factor = 1e3  # the norm divides by a standard deviation
    close(torch.cat((y, top), -1), want, T, H, factor)
    close(squares, want[..., :H].square().sum(0), T, H, factor)
    assert seen.item() == 13


def columns(monkeypatch: pytest.MonkeyPatch, count: int, split: bool) -> None:
    torch.set_num_threads(2)
    monkeypatch.setattr(launch.NativeKernel, "team", lambda self, T, B, useful=None: (count, split))


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_threads_split_rows_or_columns(
    monkeypatch: pytest.MonkeyPatch, two_threads: None, count: int, split: bool
) -> None:
    columns(monkeypatch, count, split)
    assert threads.pool().parallel, "PyTorch's libgomp is loaded on Linux"
    gru(70, 5, 6, lengths=torch.tensor([6, 1, 0, 4, 6]), reset=torch.rand(6, 5) < 0.3, reverse=True)
    test_reductions_and_totals(37, ISAS[0])
    check(100, 5, 4, ISAS[0], F64, ragged=True, resets=True, reverse=True)
    check(100, 1, 4, ISAS[0], F64, resets=True)


def test_a_call_uses_the_threads_that_pytorch_has(two_threads: None) -> None:
    kernel = llvm.compile(loops.lstm(256).of(torch.float32))
    assert kernel.team(100, 32) == (2, False)
    assert kernel.team(100, 1) == (2, True)
    assert kernel.team(1, 1) == (1, False)
    few = machine.host().rows * 2 * 100 - 1  # fewer than a tile a thread, in the mean of the steps
    assert kernel.team(100, 16, few) == (2, True), "few rows are left in the end"
    assert kernel.team(100, 16, few + 1) == (2, False)
    assert kernel.team(100, 32, 1600) == (2, False)
    torch.set_num_threads(1)
    assert kernel.team(100, 32) == (1, False)


def test_two_python_threads_at_once(two_threads: None) -> None:
    def work(_: int) -> None:
        for _ in range(20):
            gru(64, 8, 20)

    with ThreadPoolExecutor(3) as workers:
        assert len(list(workers.map(work, range(3)))) == 3


def _in_child(run: Callable[[], str], y: Tensor, results: Any) -> None:
    """Uses nothing of PyTorch that could start threads, which would hang."""
    y.numpy().fill(0)
    note = run()
    results.put((note, y.numpy().copy()))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_fork_one_thread_is_used(two_threads: None) -> None:
    B, T, H = 8, 30, 128
    kernel = llvm.compile(loops.gru(H).of(F64))
    buffers = {"x": torch.randn(T, B, 3 * H, dtype=F64), "R": torch.randn(2 * H, H, dtype=F64)}
    buffers |= {"U": torch.randn(H, H, dtype=F64), "y": poisoned(T, B, H, dtype=F64)}

    def run() -> str:
        kernel(TimeAxis(T, B), buffers)
        return kernel.description

    assert kernel.team(T, B) == (2, False)
    assert "forked" not in run()
    want = buffers["y"].clone()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_in_child, args=(run, buffers["y"], results))
    child.start()
    note, got = results.get(timeout=60)
    child.join(timeout=60)
    assert child.exitcode == 0
    assert "forked" in note
    torch.testing.assert_close(torch.from_numpy(got), want)


def test_a_second_reset_total_is_optional() -> None:
    H = 3
    zeros: dict[str, Tensor] = {"a": torch.rand(2, 1, 4 * H), "cs": torch.rand(2, 1, H), "before": torch.rand(2, 1, H)}
    zeros |= {
        "dy": torch.rand(2, 1, H),
        "R": torch.rand(4 * H, H),
        "G": torch.empty(2, 1, 4 * H),
        "db": torch.empty(4 * H),
    }
    llvm.compile(loops.lstm_gradient(H).of(torch.float32))(
        TimeAxis(2, 1, reset=torch.ones(2, 1, dtype=torch.bool)), zeros
    )
    assert zeros["G"].isfinite().all()


def test_long_totals_keep_their_digits() -> None:
    T, B, n = 3000, 4, 5
    x, total = Buffer("x", "sequence", n), Buffer("total", "total", n, 0)
    m = loops.Lines()
    m.total(m.load(x), total)
    numbers, got = torch.rand(T, B, n), torch.empty(n)
    llvm.compile(Loop((m.map(n),), ()).of(torch.float32))(TimeAxis(T, B), {"x": numbers, "total": got})
    want = numbers.double().sum((0, 1))
    steps_between = 32 * B + T / 32  # additions one number goes through
    near = torch.finfo(torch.float32).eps * steps_between**0.5
    torch.testing.assert_close(got.double(), want, rtol=near, atol=0)


_FEWER = """
import torch
from everloop.compiler.targets import llvm
from everloop.compiler.time_axis import TimeAxis
from everloop.compiler.targets.llvm.launch import NativeKernel
from everloop.compiler.time_axis import TimeAxis
from tests.compiler.targets import loops
H, B, T = 70, 5, 6
buffers = {"x": torch.randn(T, B, 3 * H), "R": torch.randn(2 * H, H), "U": torch.randn(H, H)}
kernel, results = llvm.compile(loops.gru(H).of(torch.float32)), []
for plan in ((1, False), (2, False), (2, True)):
    NativeKernel.team = lambda *_: plan
    results.append(torch.full((T, B, H), float("nan")))
    kernel(TimeAxis(T, B), buffers | {"y": results[-1]})
assert results[0].isfinite().all()
assert all(torch.equal(r, results[0]) for r in results)
"""


def test_fewer_threads_than_asked_for_lose_no_rows() -> None:
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1", "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", _FEWER], env=environment, check=True, timeout=100)
