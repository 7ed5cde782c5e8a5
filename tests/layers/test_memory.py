"""The gradient loop writes into what was saved where nobody asks for it again, and only there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from everloop import cells
from everloop.cell import Cell, H, I, param, state
from everloop.compiler.bindings import Bindings
from everloop.compiler.program import Program
from everloop.compiler.targets import llvm
from everloop.layers import Recurrent
from everloop.layers.dispatch import program_of
from tests.zoo import ONE_OUTPUT, given, make

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
STEPS, BATCH, WIDE, N = 6, 5, 4, 19
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "lengths": {"lengths": torch.tensor([6, 1, 0, 4, 2])},
    "resets": {"reset": torch.arange(STEPS * BATCH).reshape(STEPS, BATCH) % 4 == 3},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_gradients_are_the_same_whether_the_graph_is_kept_or_not(name: str, option: str) -> None:
    torch.manual_seed(0)
    layer = Recurrent(make(name, WIDE, N).double())
    x = torch.randn(STEPS, BATCH, WIDE, dtype=torch.float64, requires_grad=True)
    y, _ = layer(x, **OPTIONS[option], **given(layer, x).at())
    weights = torch.randn_like(y)
    leaves = [x, *layer.parameters()]
    kept, again = (torch.autograd.grad(y, leaves, weights, retain_graph=True, allow_unused=True) for _ in range(2))
    last = torch.autograd.grad(y, leaves, weights, allow_unused=True)
    for a, b, c in zip(kept, again, last, strict=True):
        assert (a is None) == (b is None) == (c is None)
        assert a is None or (torch.equal(a, b) and torch.equal(a, c))


def test_the_gradients_of_an_lstm_gates_take_the_memory_of_the_gates() -> None:
    cell = cells.LSTM(WIDE, N)
    values = Bindings(dict(cell.named_parameters()))
    program = program_of(cell, values, torch.zeros(STEPS, BATCH, WIDE))
    assert isinstance(program, Program)
    plan = program.training(frozenset(program.loop_inputs)).plan
    assert plan.in_place == {"d(u1)": "u1'"}


def test_what_a_later_stage_reads_again_is_not_overwritten() -> None:
    cell = cells.MinimalGatedUnit(WIDE, N)
    program = program_of(cell, Bindings(dict(cell.named_parameters())), torch.zeros(STEPS, BATCH, WIDE))
    assert isinstance(program, Program)
    assert not program.training(frozenset(program.loop_inputs)).plan.in_place


@pytest.mark.parametrize("option", ["lengths", "resets"])
def test_the_gradient_does_not_mind_what_becomes_of_the_callers_tensors(option: str) -> None:
    layer = Recurrent(cells.LSTM(WIDE, N).double())
    x = torch.randn(STEPS, BATCH, WIDE, dtype=torch.float64)
    found = []
    for is_changed in (False, True):
        given = {name: tensor.clone() for name, tensor in OPTIONS[option].items()}
        y, _ = layer(x, **given)
        if is_changed:
            for tensor in given.values():
                tensor.fill_(200000 if option == "lengths" else True)
        found.append(torch.autograd.grad(y.square().sum(), list(layer.parameters())))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_what_hooks_have_seen_is_not_overwritten() -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        seen.append((tensor, tensor.clone()))
        return tensor

    layer = Recurrent(cells.LSTM(WIDE, N))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y, _ = layer(torch.randn(STEPS, BATCH, WIDE))
    y.sum().backward()
    assert seen
    assert all(torch.equal(tensor, copy) for tensor, copy in seen)


class Gated(Cell):
    """What its loop reads is, before the loop, a factor of another product, whose gradient reads it too."""

    h = state(H)
    W = param(H, I)
    V = param(H, H)
    R = param(H, H)

    def step(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        u = x @ self.W.T
        return torch.tanh(u * (h @ self.R.T)) + u @ self.V.T


def test_what_the_gradient_before_the_loop_reads_is_not_overwritten() -> None:
    cell = Gated(WIDE, N).double()
    x = torch.randn(STEPS, BATCH, WIDE, dtype=torch.float64)
    carried = torch.randn(BATCH, N, dtype=torch.float64)
    found = []
    for target in ("eager", "llvm"):
        y, _ = Recurrent(cell, target=target)(x, (carried,))
        found.append(torch.autograd.grad(y.square().sum(), [cell.W, cell.V, cell.R]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)
