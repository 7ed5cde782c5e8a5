"""What every target must fulfil: each that is registered passes all of this, and a new one does by adding its name."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop import cells
from everloop.compiler import target as targets
from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call
from everloop.compiler.compact import Compact
from everloop.compiler.interpreter import INTERPRETED, Interpreter
from everloop.compiler.loop import Buffer, Loop
from everloop.compiler.passes import plan_training, split_step
from everloop.compiler.plan import plan_forward
from everloop.compiler.target import CellTarget, LoopTarget
from everloop.compiler.time_axis import TimeAxis
from everloop.compiler.trace import trace
from everloop.diagnose import agree as compare_targets
from everloop.errors import OptionError, UnsupportedError
from everloop.layers import Recurrent
from tests.zoo import NAMES, make, values

CPU = torch.device("cpu")
LOOP_TARGETS = [t for name in targets.names() if isinstance(t := targets.find(name), LoopTarget)]
FLOATS = [dtype for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)
          if any(not target.refusal(dtype, CPU) for target in LOOP_TARGETS)]  # fmt: skip
KERNELS = [
    pytest.param(target.name, marks=pytest.mark.skipif(bool(reason), reason=reason))
    for target in LOOP_TARGETS
    for reason in [target.refusal(torch.float32, CPU)]
]
LOOPS = [*KERNELS, INTERPRETED.name]
CELLS = [name for name in targets.names() if isinstance(targets.find(name), CellTarget)]


@pytest.fixture(autouse=True)
def _interpreter() -> Iterator[None]:
    """The interpreter is a target like the others while these tests run."""
    targets.register(INTERPRETED)
    yield
    targets.unregister(INTERPRETED.name)


def loop_target(name: str) -> LoopTarget:
    found = targets.find(name)
    assert isinstance(found, LoopTarget)
    return found


class Memory:
    """Numbers for every buffer of a loop, and NaN where the loop writes: twice the same, for two kernels."""

    def __init__(self, loop: Loop, T: int, B: int, dtype: torch.dtype, batch_major: bool) -> None:
        self.T, self.B, self.dtype, self.batch_major = T, B, dtype, batch_major
        self.buffers = {b.name: self.rows(b) for b in loop.buffers if b.kind not in ("state", "scratch")}
        widths = {b.of: b.width for b in loop.buffers if b.of} | {s.name: s.width for s in loop.states}
        self.first = {name: self.numbers(B, n) for name, n in widths.items()}
        self.restart = {name: self.numbers(n) for name, n in widths.items()}
        carried = [s.name for s in loop.states]
        if loop.is_gradient:
            self.restart |= {name: torch.zeros(widths[name], dtype=dtype) for name in carried}
        self.final = {name: self.nothing(B, widths[name]) for name in carried}
        self.written = {b.name: self.buffers[b.name] for b in loop.buffers if b.kind in ("emit", "total")}
        self.written |= {f"final {name}": t for name, t in self.final.items()}
        self.written |= {f"restart {name}": self.restart[name] for name in carried if loop.is_gradient}

    def numbers(self, *shape: int) -> Tensor:
        return 0.1 + 0.8 * torch.rand(*shape, dtype=torch.float64).to(self.dtype)

    def nothing(self, *shape: int) -> Tensor:
        return torch.full(shape, torch.nan, dtype=self.dtype)

    def rows(self, buffer: Buffer) -> Tensor:
        n, make = buffer.width, self.nothing if buffer.kind in ("emit", "total") else self.numbers
        match buffer.kind:
            case "matrix":
                return (make(buffer.height, n) - 0.5) / max(n, 1) ** 0.5
            case "row":
                return make(self.B, n)
            case "vector":
                return make(n)
            case "total":
                return make(self.B, n) if buffer.height else make(n)
        if self.batch_major:
            return make(self.B, self.T, n + 2).transpose(0, 1)[..., 1 : n + 1]
        return make(self.T, self.B, n)

    def run(self, kernel: Any, **options: Any) -> dict[str, Tensor]:
        kernel(
            TimeAxis(self.T, self.B, **options), self.buffers, first=self.first, final=self.final, restart=self.restart
        )
        return self.written


def loops_of(name: str) -> Iterator[Loop]:
    cell = make(name, 3, 5, dtype=torch.float64).eval()
    read = values(cell, 2, 3)
    fixed = {**read.fixed, **dict(cell.named_buffers())}
    parts = split_step(trace(cell, fixed, read.rows, read.steps, torch.float64))
    training = plan_training(parts, frozenset(parts.loop_inputs))
    yield from (plan_forward(parts).loop, training.forward.loop, training.gradient)


def agree(
    loop: Loop, kernel: Any, T: int, B: int, dtype: torch.dtype, *, batch_major: bool = False, **time: Any
) -> None:
    """Compare a kernel with the interpreter."""
    results = []
    for run in (Interpreter(loop.of(dtype)), kernel):
        torch.manual_seed(3)
        results.append(Memory(loop, T, B, dtype, batch_major).run(run, **time))
    scale = max((float(t.nan_to_num().abs().max()) for t in results[0].values() if t.numel()), default=1.0)
    slack = 200 * torch.finfo(dtype).eps
    # NaN in both is what neither writes, as the parts of a sequence that a loop has no use for
    torch.testing.assert_close(results[1], results[0], rtol=slack, atol=slack * max(scale, 1.0), equal_nan=True)


@pytest.mark.parametrize("cell", NAMES)
@pytest.mark.parametrize("target", KERNELS)
def test_a_kernel_does_what_the_interpreter_does(target: str, cell: str) -> None:
    torch.manual_seed(0)
    lengths, reset = torch.tensor([4, 0, 1, 3, 2]), torch.rand(5, 4).T < 0.4
    for loop in loops_of(cell):
        kernel = loop_target(target).compile(loop.of(torch.float64))
        agree(loop, kernel, 4, 5, torch.float64)
        agree(loop, kernel, 1, 1, torch.float64, reverse=True)
        agree(loop, kernel, 4, 5, torch.float64, lengths=lengths, reset=reset, batch_major=True)
        agree(loop, kernel, 4, 5, torch.float64, lengths=lengths, reset=reset, reverse=True)


@pytest.mark.parametrize("target", KERNELS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_of_no_steps_and_of_no_rows(target: str, dtype: torch.dtype) -> None:
    for loop in loops_of("lstm"):
        kernel = loop_target(target).compile(loop.of(dtype))
        for T, B in ((0, 3), (3, 0), (0, 0), (2, 7)):
            agree(loop, kernel, T, B, dtype, lengths=torch.zeros(B, dtype=torch.int64) if T == 2 else None)


@pytest.mark.parametrize("cell", ["gru", "peephole-lstm", "counter", "tapped"])
@pytest.mark.parametrize("batch_major", [False, True])
@pytest.mark.parametrize("target", KERNELS)
def test_compact_rows_are_those_that_exist(target: str, batch_major: bool, cell: str) -> None:
    T, B, lengths = 6, 5, torch.tensor([2, 6, 0, 1, 3])
    for loop in loops_of(cell):
        kernel = loop_target(target).compile(loop.of(torch.float64))
        for reverse in (False, True):
            torch.manual_seed(5)
            padded = Memory(loop, T, B, torch.float64, batch_major)
            compact = Compact(lengths, T, batch_major=batch_major, reverse=reverse)
            packed = Memory(loop, T, B, torch.float64, batch_major)
            each = [b.name for b in loop.buffers if b.kind in ("sequence", "previous", "emit")]
            packed.first, packed.buffers = padded.first, dict(padded.buffers)
            packed.restart = {name: t.clone() for name, t in padded.restart.items()}
            for name in each:
                packed.buffers[name] = compact.at(padded.buffers[name], compact.place).contiguous()
            for b in loop.buffers:
                if b.kind == "total":
                    packed.buffers[b.name] = padded.buffers[b.name].clone()
            packed.run(kernel, lengths=lengths, reverse=reverse, compact=compact)
            padded.run(kernel, lengths=lengths, reverse=reverse)
            want = {b.name: padded.buffers[b.name] for b in loop.buffers if b.kind in ("emit", "total")}
            got = {name: compact.pad(packed.buffers[name]) if name in each else packed.buffers[name] for name in want}
            torch.testing.assert_close(got, want)
            torch.testing.assert_close(packed.final, padded.final)


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru", "softmax", "readout", "jordan"])
@pytest.mark.parametrize("target", [*LOOPS, *CELLS])
def test_a_layer_gives_the_same_by_every_target(target: str, cell: str) -> None:
    torch.manual_seed(1)
    lengths, reset = torch.tensor([7, 0, 3]), torch.rand(7, 3) < 0.3
    x = torch.randn(7, 3, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for name in (target, targets.reference().name):
        layer = Recurrent(make(cell, 3, 4, dtype=torch.float64).eval(), target=name, learned_state=True)
        torch.manual_seed(2)
        for p in layer.parameters():
            torch.nn.init.normal_(p, std=0.5)
        y, last = layer(x, lengths=lengths, reset=reset)
        loss = y.square().sum() + sum(s.sum() for s in last)
        found.append([y, *last, *torch.autograd.grad(loss, [x, *layer.parameters()])])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("target", LOOPS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_products_over_all_steps(target: str, dtype: torch.dtype) -> None:
    found = loop_target(target)
    left, right = torch.randn(40, 3, 65, dtype=dtype), torch.randn(40, 3, 33, dtype=dtype)
    weight, bias = (torch.randn(*shape, dtype=dtype, requires_grad=True) for shape in ((17, 65), (17,)))
    exact = torch.einsum("tbm,tbk->mk", left.double(), right.double())
    torch.testing.assert_close(found.over_rows(left, right).double(), exact, rtol=1e-4, atol=1e-3)
    for size in (0, 13, 20):
        several = found.over_rows(left, right[:size], right[size:])
        torch.testing.assert_close(several.double(), exact, rtol=1e-4, atol=1e-3)
    y = found.linear(left, weight, bias)
    torch.testing.assert_close(y, torch.nn.functional.linear(left, weight, bias), rtol=1e-4, atol=1e-4)
    slopes = torch.randn(40, 3, 17, dtype=dtype)
    y.detach().zero_()  # its memory may be written again
    got = torch.autograd.grad(y, (weight, bias), slopes)
    want = torch.autograd.grad(torch.nn.functional.linear(left, weight, bias), (weight, bias), slopes)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("target", LOOPS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (130, 65, 97), (0, 3, 4), (3, 0, 4)])
def test_a_product_that_is_written_or_added(target: str, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    found, (m, k, n) = loop_target(target), shape
    a, b, bias = torch.randn(k, m, dtype=dtype).T, torch.randn(k, n, dtype=dtype), torch.randn(n, dtype=dtype)
    out = torch.full((m, n + 1), torch.nan, dtype=dtype)
    exact, close = a.double() @ b.double(), partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    found.multiply(out[:, :n], a, b, bias)
    close(out[:, :n].double(), exact + bias)
    found.multiply(out[:, :n], a, b, add=True)
    close(out[:, :n].double(), 2 * exact + bias)
    found.multiply(out[:, :n], a, b)
    close(out[:, :n].double(), exact)
    assert out[:, n].isnan().all()


@pytest.mark.parametrize("target", LOOPS)
def test_memory_is_like_the_tensor_it_is_for(target: str) -> None:
    found = loop_target(target)
    for dtype in FLOATS:
        memory = found.empty((3, 0, 5), torch.zeros(1, dtype=dtype))
        assert (memory.shape, memory.dtype, memory.device) == ((3, 0, 5), dtype, CPU)
        assert found.empty_like(torch.zeros(2, 3, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("target", LOOPS)
def test_a_kernel_is_made_once_and_says_what_it_is(target: str) -> None:
    found, loop = loop_target(target), next(loops_of("gru"))
    kernel = found.compile(loop.of(torch.float32))
    assert "float32" in kernel.description
    assert kernel.source
    if target != INTERPRETED.name:
        assert found.compile(loop.of(torch.float32)) is kernel


@pytest.mark.parametrize("target", KERNELS)
def test_threads_may_call_at_once(target: str) -> None:
    loop = next(loops_of("lstm"))
    kernel = loop_target(target).compile(loop.of(torch.float64))

    def run(_: int) -> dict[str, Tensor]:
        return Memory(loop, 5, 3, torch.float64, False).run(kernel)

    with ThreadPoolExecutor(3) as workers:
        assert all(all(t.isfinite().all() for t in found.values()) for found in workers.map(run, range(12)))


@pytest.mark.parametrize("target", [*LOOPS, *CELLS])
def test_what_a_target_refuses_it_says(target: str) -> None:
    found = targets.find(target)
    for dtype in (torch.float16, torch.complex64):
        for device in (CPU, torch.device("meta")):
            reason = found.refusal(dtype, device)
            assert not reason or str(dtype) in reason
            if reason and isinstance(found, LoopTarget):
                with pytest.raises(UnsupportedError):
                    found.compile(next(loops_of("gru")).of(dtype))


@pytest.mark.parametrize("target", KERNELS)
def test_single_steps(target: str) -> None:
    layer = Recurrent(cells.LSTM(3, 4, dtype=torch.float64), target=target)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        want, last = layer(x)
        state: Any = None
        for t in range(6):
            y, state = layer.step(x[t], state)
            torch.testing.assert_close(y, want[t])
        torch.testing.assert_close(state, last)


def test_names_are_the_registry() -> None:
    class Another(type(INTERPRETED)):  # type: ignore[misc]
        name = "another"

    with pytest.raises(OptionError, match="there is a target 'interpreter' already"):
        targets.register(INTERPRETED)
    targets.register(Another())
    assert targets.names()[-1] == "another"
    layer = Recurrent(cells.GRU(3, 4), target="another")
    assert "target another, interpreted" in layer.explain()
    targets.unregister("another")
    with pytest.raises(OptionError, match="unknown target 'another'"):
        Recurrent(cells.GRU(3, 4), target="another")
    with pytest.raises(OptionError, match="is built in"):
        targets.unregister("llvm")


def test_bindings_of_a_cell_target() -> None:
    cell = cells.GRU(3, 4)
    values = Bindings(dict(cell.named_parameters()))
    for name in CELLS:
        found = targets.find(name)
        assert isinstance(found, CellTarget)
        y, final = found.run(cell, Call.of(values, torch.randn(5, 2, 3), (torch.zeros(2, 4),)))
        assert (y.shape, final[0].shape) == ((5, 2, 4), (2, 4))
        torch.testing.assert_close(y[-1], final[0])


class Fussy(type(targets.reference())):  # type: ignore[misc]
    """Runs nothing."""

    name = "fussy"

    def refusal(self, dtype: torch.dtype, device: torch.device) -> str:
        return "it is fussy"


def test_a_cell_target_that_refuses_is_not_run() -> None:
    targets.register(Fussy())
    layer, x = Recurrent(cells.GRU(3, 4), target="fussy"), torch.randn(5, 2, 3)
    with pytest.raises(UnsupportedError, match="it is fussy"):
        layer(x)
    assert "no target, because it is fussy" in layer.explain()
    found = compare_targets(Recurrent(cells.GRU(3, 4)), x)
    targets.unregister("fussy")
    assert found.absent["fussy"] == "it is fussy"
