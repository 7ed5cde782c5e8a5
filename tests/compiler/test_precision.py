"""A step of bfloat16: what is stored in it and what in float32, and that its loops compute what float32 would."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop.cell import Cell, H, I, param, state
from everloop.compiler import target as targets
from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call
from everloop.compiler.interpreter import INTERPRETED, Interpreter
from everloop.compiler.loop import Loop, Map
from everloop.compiler.passes import plan_training, split_step
from everloop.compiler.plan import DerivedTraining, plan_forward
from everloop.compiler.precision import accumulating
from everloop.compiler.program import Program
from everloop.compiler.targets.llvm.target import TARGET
from everloop.compiler.time_axis import TimeAxis
from everloop.compiler.trace import trace
from everloop.compiler.verify import verified_training
from everloop.errors import PlanError, UnsupportedError
from everloop.layers import Recurrent
from everloop.layers.autograd_function import compute
from tests.zoo import NAMES, make, values

B16, F32 = torch.bfloat16, torch.float32
CELLS = ["elman", "lstm", "gru", "peephole-lstm", "reset-before-gru", "minimal-gated-unit", "highway", "projected-lstm"]
EPS = torch.finfo(B16).eps


def split_of(name: str) -> Any:
    cell = make(name, 3, 4, dtype=B16).eval()
    read = values(cell, 2, 3)
    return split_step(trace(cell, read.fixed, read.rows, read.steps, B16))


def planned(name: str) -> DerivedTraining:
    split = split_of(name)
    return plan_training(split, frozenset(split.loop_inputs))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_stored_in_bfloat16(name: str) -> None:
    plan = verified_training(planned(name))
    for loop in (plan.forward.loop, plan.gradient):
        for b in loop.buffers:
            if b.kind == "total" or (b.kind == "state" and loop.is_gradient):
                assert b.dtype == F32, b
            elif b.kind not in ("state", "scratch"):
                assert b.dtype == B16, b


@pytest.mark.parametrize(
    ("name", "states"),
    [("lstm", {"c"}), ("gru", {"h"}), ("elman", set()), ("minimal-gated-unit", {"h"}), ("peephole-lstm", {"c"})],
)
def test_a_state_that_accumulates_is_float32(name: str, states: set[str]) -> None:
    split = split_of(name)
    assert accumulating(split.loop) == states
    assert {b.name for b in plan_forward(split).loop.states if b.dtype == F32} == states


def results(name: str, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Return values and gradients of the same numbers: by the loops of bfloat16, or step by step."""
    torch.manual_seed(1)
    cell = make(name, 3, 4, dtype=F32).eval()
    x = torch.randn(6, 2, 3)
    with torch.no_grad():
        for p in cell.parameters():
            p.copy_(p.to(B16))
    cell, x = cell.to(dtype), x.to(B16).to(dtype).requires_grad_()
    start = tuple(torch.zeros(2, n, dtype=dtype) for n in cell.state_sizes.values())
    if dtype == B16:
        values = Bindings(dict(cell.named_parameters()))
        program = Program.of(cell, values, B16, INTERPRETED)
        y, final = compute(program, Call.of(values, x, start))
    else:
        rows = []
        for x_t in x:
            new = cell.step(x_t, *start)
            start = tuple(new) if isinstance(new, tuple) else (new,)
            rows.append(start[0])
        y, final = torch.stack(rows), start
    torch.manual_seed(2)
    weights = torch.randn(y.shape)
    leaves = [x, *cell.parameters()]
    grads = torch.autograd.grad((y.float() * weights).sum(), leaves, allow_unused=True, materialize_grads=True)
    return [t.detach().float() for t in (y, *final)], [g.float() for g in grads]


@pytest.mark.parametrize("name", CELLS)
def test_values_and_gradients_are_near_those_of_float32(name: str) -> None:
    found, grads = results(name, B16)
    expected, wanted = results(name, F32)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=4 * EPS, atol=4 * EPS * float(want.abs().max()))
    for got, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=8 * EPS * max(float(want.abs().max()), 1e-3))


def without_a_cast(plan: DerivedTraining) -> Iterator[DerivedTraining]:
    """Yield plans in which one cast hands on what it is given."""
    for which in ("forward", "gradient"):
        loop: Loop = plan.forward.loop if which == "forward" else plan.gradient
        for n, stage in enumerate(loop.stages):
            for at, i in enumerate(stage.body if isinstance(stage, Map) else ()):
                if i.op == "cast":
                    assert isinstance(stage, Map)
                    body = [replace(j, args=tuple(i.args[0] if a == at else a for a in j.args)) for j in stage.body]
                    stages = (*loop.stages[:n], replace(stage, body=tuple(body)), *loop.stages[n + 1 :])
                    changed = replace(loop, stages=stages)
                    forward = replace(plan.forward, loop=changed)
                    yield replace(plan, forward=forward) if which == "forward" else replace(plan, gradient=changed)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_cast_that_is_lost_is_found(name: str) -> None:
    spoiled = list(without_a_cast(planned(name)))
    assert len(spoiled) > 8
    for plan in spoiled:
        with pytest.raises(PlanError, match="bfloat16"):
            verified_training(plan)


def test_the_interpreter_takes_no_number_of_another_dtype() -> None:
    loop = next(plan.forward.loop for plan in without_a_cast(planned("lstm")))
    memory = {b.name: torch.zeros((b.height, b.width) if b.kind == "matrix" else (1, 1, b.width), dtype=b.dtype)
              for b in loop.buffers}  # fmt: skip
    with pytest.raises(AssertionError, match=r"bfloat16|only stored"):
        Interpreter(loop)(TimeAxis(1, 1), memory)


def test_a_target_of_one_dtype_refuses() -> None:
    with pytest.raises(UnsupportedError, match=r"or float64; this one has torch.bfloat16 and torch.f"):
        TARGET.compile(plan_forward(split_of("lstm")).loop)


@pytest.mark.parametrize("name", ["elman", "lstm", "gru", "peephole-lstm", "readout"])
def test_a_layer_in_bfloat16(name: str) -> None:
    """By the interpreter, with everything that a call can have: totals and states come in their own dtypes."""
    targets.register(INTERPRETED)
    torch.manual_seed(0)
    layer = Recurrent(make(name, 3, 4, dtype=F32).eval(), learned_state=True, target=INTERPRETED.name)
    x, reset, lengths = torch.randn(6, 3, 3), torch.rand(6, 3) < 0.3, torch.tensor([6, 0, 4])
    found = []
    for dtype in (B16, F32):
        for p in layer.parameters():
            p.data = p.data.to(B16).to(dtype)
        layer.zero_grad()
        y, _ = layer(x.to(B16).to(dtype), lengths=lengths, reset=reset)
        y.float().square().sum().backward()
        assert y.dtype == dtype
        found.append([y.float(), *(p.grad.float() for p in layer.parameters() if p.grad is not None)])
    targets.unregister(INTERPRETED.name)
    assert len(found[0]) == len(found[1])
    for low, full in zip(*found, strict=True):
        assert (low - full).abs().max() <= 8 * EPS * full.abs().max()


def test_the_totals_of_a_layer_in_bfloat16_are_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, torch.dtype] = {}
    real = Interpreter.__call__

    def watched(self: Interpreter, time: TimeAxis, buffers: Any, **rest: Any) -> None:
        seen.update({b.name: buffers[b.name].dtype for b in self.loop.buffers if b.kind == "total"})
        real(self, time, buffers, **rest)

    monkeypatch.setattr(Interpreter, "__call__", watched)
    test_a_layer_in_bfloat16("peephole-lstm")
    assert seen
    assert set(seen.values()) == {F32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gradient_of_numbers_alone_has_the_dtype_of_the_step(dtype: torch.dtype) -> None:
    class Forgetful(Cell):
        """Nothing of the old state, and of a matrix that is not learned: the gradient is made of zeros."""

        h = state(H)
        U = param(H, I)

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return x @ self.U.T

    cell = Forgetful(2, 3, dtype=dtype)
    cell.U.requires_grad_(False)
    start = torch.randn(1, 3, dtype=dtype, requires_grad=True)
    y, _ = Recurrent(cell, target="llvm")(torch.randn(4, 1, 2, dtype=dtype), (start,))
    y.sum().backward()
    assert start.grad is not None
    assert start.grad.dtype == dtype
    assert not start.grad.any()
