"""The verifier of plans: it passes every right plan, and finds every change that changes a number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, cat, sigmoid, tanh

from everloop import Recurrent, cells
from everloop.cell import Cell, H, I, param, state
from everloop.compiler import passes
from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call
from everloop.compiler.gradient import sequence_of
from everloop.compiler.hoist import Split
from everloop.compiler.interpreter import INTERPRETED, Interpreter
from everloop.compiler.passes import plan_training, split_step
from everloop.compiler.placement import Placement
from everloop.compiler.plan import DerivedTraining, ScheduledForward, plan_forward
from everloop.compiler.program import Program, TrainingKernels
from everloop.compiler.schedule import Access
from everloop.compiler.trace import trace
from everloop.compiler.verify import verified_forward, verified_training
from everloop.errors import PlanError, UnsupportedError
from everloop.layers.autograd_function import compute
from tests.compiler.mutations import mutants, split_of, verdict
from tests.zoo import NAMES, make

D = torch.float64


class TwoProducts(Cell):
    """The rows of two products of one row, whose gradients are made at different moments."""

    h, c = state(H), state(H)
    P, Q = param(H, 2 * H), param(H, 2 * H)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        v = tanh(cat([h, c], -1))
        return h + v @ self.P.T, c + v @ self.Q.T


class OneState(Cell):
    """The same with one state and a gate that is learned."""

    h = state(H)
    P, Q, g = param(H, H), param(H, H), param(H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        v = tanh(h) * self.g
        return tanh(h + v @ self.P.T) + 0.1 * (v @ self.Q.T)


class Narrow(Cell):
    """A state of one feature beside a wide one: its gradients share a map with wide ones."""

    h, m = state(H), state(1)
    A, W = param(H, 1), param(1, I)

    def step(self, x: Tensor, h: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        u = x @ self.W.T
        return h + tanh(m @ self.A.T), sigmoid(u) * m + tanh(u)


class PartOfAState(Cell):
    """A state is a product, and another product reads a part of it."""

    h, c = state(H), state(H)
    P, Q = param(H, H), param(H, 2)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        new = c @ self.P.T
        return new, tanh(new[:, :2] @ self.Q.T)


FOUND = [TwoProducts, OneState, Narrow, PartOfAState]


def split_of_cell(cell: Cell) -> Split:
    return split_step(trace(cell, dict(cell.named_parameters()), dtype=D))


def by_hand(cell: Cell, x: Tensor) -> list[Tensor]:
    """Return the output and final states, step by step."""
    state = cell.zeros(x.shape[1], like=x)
    output = []
    for x_t in x:
        found = cell.step(x_t, *state)
        state = found if isinstance(found, tuple) else (found,)
        output.append(state[0])
    return [torch.stack(output), *state]


def gradients(results: list[Tensor], leaves: list[Tensor], *, keep: bool = False) -> list[Tensor]:
    torch.manual_seed(5)
    loss = sum((r * torch.randn_like(r)).sum() for r in results)
    assert isinstance(loss, Tensor)
    found = torch.autograd.grad(loss, leaves, allow_unused=True, retain_graph=keep)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]


@pytest.mark.parametrize("frozen", [(), ("P",), ("W",), ("A", "Q")])
@pytest.mark.parametrize("form", FOUND)
def test_gradients_that_were_wrong(form: type[Cell], frozen: tuple[str, ...]) -> None:
    cell = form(3, 4, dtype=D)
    for name in frozen:
        if hasattr(cell, name):
            getattr(cell, name).requires_grad_(False)
    x = torch.randn(5, 2, 3, dtype=D, requires_grad=True)
    leaves = [x, *(p for p in cell.parameters() if p.requires_grad)]
    layer = Recurrent(cell, target="llvm")
    y, last = layer(x)
    expected = by_hand(cell, x)
    torch.testing.assert_close([y, *last], expected)
    wanted = gradients(expected, leaves)
    for keep in (True, False):
        torch.testing.assert_close(gradients([y, *last], leaves, keep=keep), wanted)


@pytest.mark.parametrize("form", FOUND[:2])
def test_a_row_that_is_read_too_early_is_found(form: type[Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Placement, "_read_ranges", lambda _: {})
    split = split_of_cell(form(3, 4, dtype=D))
    with pytest.raises(PlanError, match="is read before it is written"):
        verified_training(plan_training(split, frozenset(split.loop_inputs)))


def test_a_value_that_is_overwritten_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Access, "is_before", lambda *_: True)
    split = split_of_cell(Narrow(3, 4, dtype=D))
    with pytest.raises(PlanError, match=r"d\(m\)|elsewhere"):
        verified_training(plan_training(split, frozenset(split.loop_inputs)))


@pytest.mark.parametrize("name", NAMES)
def test_right_plans_pass(name: str) -> None:
    split = split_of(name)
    verified_forward(plan_forward(split))
    for wanted in (frozenset(split.loop_inputs), frozenset(list(split.loop_inputs)[:1]), frozenset[str]()):
        verified_training(plan_training(split, wanted))


def outcome(name: str, plan: DerivedTraining, *, owned: bool) -> list[Tensor]:
    """Return the results and gradients of a plan, run without a target. owned: emits take memory where they may."""
    cell = make(name, 3, 4, dtype=D).eval()
    values = Bindings(dict(cell.named_parameters()))
    program = Program.of(cell, values, D, INTERPRETED)
    wanted = frozenset(program.loop_inputs)
    if not owned:
        program.prologue.owned = set()
    kept = tuple(dict.fromkeys(plan.reads.values()))
    loops = Interpreter(plan.forward.loop), Interpreter(plan.gradient)
    program._trained[wanted] = TrainingKernels(plan, *loops, kept)
    torch.manual_seed(3)
    x = torch.randn(4, 2, 3, dtype=D, requires_grad=True)
    start = tuple(torch.randn(2, n, dtype=D, requires_grad=True) for n in cell.state_sizes.values())
    y, final = compute(program, Call.of(values, x, start))
    leaves = [x, *start, *values.fixed.values()]
    return [y, *final, *gradients([y, *final], leaves)]


@pytest.mark.parametrize("name", ["gru", "counter", "reset-before-gru"])
def test_every_change_that_changes_a_number_is_found(name: str) -> None:
    split = split_of(name)
    plan = plan_training(split, frozenset(split.loop_inputs))
    torch.manual_seed(1)
    right = outcome(name, plan, owned=True)
    kinds = set()
    for what, changed in mutants(plan):
        if verdict(changed):
            kinds.add(what.rstrip("0123456789"))
            continue
        for owned in (True, False):
            torch.manual_seed(1)
            torch.testing.assert_close(outcome(name, changed, owned=owned), right, equal_nan=False)
    assert len(kinds) > 30


def spoiled(plan: DerivedTraining) -> DerivedTraining:
    """Return a plan with a wrong gradient."""
    return next(p for what, p in mutants(plan) if "gradient" in what and verdict(p))


def change(monkeypatch: pytest.MonkeyPatch, name: str, by: Callable[[Any], Any]) -> None:
    """Let a pass of the list give what `by` makes of its result."""
    changed = [replace(p, run=lambda *args, p=p: by(p.run(*args))) if p.name == name else p for p in passes.PASSES]
    monkeypatch.setattr(passes, "PASSES", changed)


def test_a_wrong_plan_runs_on_eager_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("EVERLOOP_CACHE", str(tmp_path))
    change(monkeypatch, "plan training", spoiled)
    cell = OneState(2, 3, dtype=D)
    x = torch.randn(5, 2, 2, dtype=D, requires_grad=True)
    layer = Recurrent(cell)
    with pytest.warns(UserWarning, match="OneState runs on eager, because its plan is wrong: .*defect of everloop"):
        y, last = layer(x)
    expected = by_hand(cell, x)
    torch.testing.assert_close([y, *last], expected)
    leaves: list[Tensor] = [*cell.parameters()]
    torch.testing.assert_close(gradients([y, *last], leaves), gradients(expected, leaves))
    assert "its plan is wrong" in layer.explain()
    with pytest.raises(UnsupportedError, match="its plan is wrong"):
        Recurrent(cell, target="llvm")(x)
    assert list(tmp_path.glob("*.plan")), "the split is kept"


def test_a_wrong_plan_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("EVERLOOP_CACHE", str(tmp_path))
    cell = cells.GRU(2, 3, dtype=D)
    values = Bindings(dict(cell.named_parameters()))
    program = Program.of(cell, values, D, INTERPRETED)
    before = set(tmp_path.iterdir())

    def without_output(plan: ScheduledForward) -> ScheduledForward:
        return replace(plan, loop=replace(plan.loop, stages=plan.loop.stages[:-1]))

    change(monkeypatch, "plan inference", without_output)
    with pytest.raises(PlanError, match="the state h"):
        program.inference()
    assert set(tmp_path.iterdir()) == before
    assert sequence_of("h") in plan_forward(program.split).emits
