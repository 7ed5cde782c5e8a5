"""Cells that normalise: what stays in the loop, how often a row is passed over, and what becomes of its sums."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, tanh
from torch.nn import functional as F

from everloop import cells
from everloop.cell import Cell, H, I, param, state
from everloop.compiler import sums
from everloop.compiler.bindings import Bindings
from everloop.compiler.hoist import Split, split
from everloop.compiler.interpreter import INTERPRETED
from everloop.compiler.ir import Type, Value
from everloop.compiler.loop import Loop, Map, Product
from everloop.compiler.passes import plan_training
from everloop.compiler.program import Program
from everloop.compiler.rules import Simplifying
from everloop.compiler.simplify import simplify
from everloop.compiler.targets import llvm
from everloop.compiler.trace import trace
from everloop.layers import Recurrent

ROW, NUMBER = Type((4,), rows=True), Type((1,), rows=True)


def parts(cell: Cell) -> Split:
    return split(simplify(trace(cell, dict(cell.named_parameters()))))


def maps(loop: Loop) -> list[Map]:
    return [stage for stage in loop.stages if isinstance(stage, Map)]


def count(loop: Loop, op: str) -> int:
    return sum(i.op == op for stage in maps(loop) for i in stage.body)


class Wide(Cell):
    """A cell whose input product is squashed, and normalised, before a state sees it."""

    h = state(H)
    W, R, b = param(H, I), param(H, H), param(H)

    def step(self, x: Tensor, h: Tensor) -> Any:
        return tanh(F.layer_norm(x @ self.W.T + self.b, self.b.shape) + h @ self.R.T)


class Reused(Wide):
    """Another product reads what is squashed."""

    V = param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Any:
        u = tanh(x @ self.W.T + self.b)
        return tanh(u * h + u @ self.V.T + h @ self.R.T)


def test_only_products_with_their_biases_run_before_the_loop() -> None:
    assert {v.op for v in parts(cells.LayerNormLSTM(3, 4)).prologue.values} == {"input", "linear"}
    found = parts(Wide(3, 4))
    assert {v.op for v in found.prologue.values} == {"input", "linear", "add"}
    assert "sum" in {v.op for v in found.loop.values}


def test_what_a_product_needs_before_the_loop_is_not_computed_twice() -> None:
    found = parts(Reused(3, 4))
    assert [v.op for v in found.prologue.values].count("tanh") == 1
    assert [v.op for v in found.loop.values].count("tanh") == 1


def test_a_layer_norm_lstm_passes_few_times_over_a_row() -> None:
    cell = cells.LayerNormLSTM(3, 4)
    training = plan_training(parts(cell), frozenset(parts(cell).loop_inputs))
    assert len(maps(training.forward.loop)) == 6
    assert [type(stage) for stage in training.gradient.stages] == [Map, Map, Map, Product]
    assert count(training.gradient, "sum") == 10
    wide = [b.width for b in training.gradient.buffers if b.kind == "scratch" and b.width > 1]
    assert wide == [4] * 5, "the gradients of four gates and of the memory, not also these times each gain"
    assert training.emits == {"d(u2)": 16, "left 0 of R": 16}
    narrow = [i for m in maps(training.forward.loop) for i in m.body if i.op == "store" and i.buffer.width == 1]  # type: ignore[union-attr]
    assert len(narrow) == 6, "means and rates are stored beside what is computed from them"


def inputs(b: Simplifying) -> tuple[Value, Value, Value]:
    row, other = (b.make("input", data=("state", name), type=ROW) for name in "ab")
    return row, other, b.make("input", data=("state", "r"), type=NUMBER)


def test_sums_are_taken_apart() -> None:
    b = Simplifying()
    row, other, rate = inputs(b)
    assert sums.total(b, b.mul(row, rate)) is b.mul(b.sum(row), rate)
    assert sums.total(b, b.neg(b.mul(rate, row))) is b.neg(b.mul(b.sum(row), rate))
    assert sums.total(b, b.add(b.mul(row, rate), other)) is b.add(b.mul(b.sum(row), rate), b.sum(other))
    assert sums.total(b, b.sub(row, other)) is b.sum(b.sub(row, other)), "exact differences may cancel"
    centred = b.sub(row, b.mul(b.sum(row), 1 / 4))
    assert sums.total(b, b.mul(centred, rate)).number == 0
    assert sums.total(b, b.sub(row, b.mul(b.sum(row), 1 / 3))).op == "sum"
    assert sums.total(b, b.sub(row, b.mul(b.sum(other), 1 / 4))).op == "sum"
    assert sums.total(b, b.add(rate, b.constant(0.0, ROW))) is b.mul(rate, 4.0)


def test_sums_of_rows_that_are_there_at_once_are_one() -> None:
    b = Simplifying()
    row, other, rate = inputs(b)
    numbers = [b.mul(b.sum(row), rate), b.neg(b.mul(b.sum(other), rate)), b.sum(row), rate]
    found = sums.together(b, numbers, lambda _: 0)
    assert found == [rate, b.mul(b.sum(b.sub(row, other)), rate), b.sum(row)]
    assert len(sums.together(b, numbers[:2], [row, other].index)) == 2
    two = [b.neg(b.sum(row)), b.neg(b.sum(other))]
    assert sums.together(b, two, lambda _: 0) == [b.neg(b.sum(b.add(row, other)))]


class OfInput(Cell):
    """A cell that normalises its input."""

    h = state(H)
    R, gain = param(H, H), param(H)

    def step(self, x: Tensor, h: Tensor) -> Any:
        return tanh(F.layer_norm(x, self.gain.shape, self.gain) * (1 + h) + h @ self.R.T)


@pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
@pytest.mark.parametrize("hidden", [5, 40, 200])
def test_rows_far_from_zero_keep_their_variance(hidden: int) -> None:
    """The mean is a thousand deviations: the mean of squares minus the square of the mean would not keep one digit."""
    torch.manual_seed(hidden)
    cell, far = OfInput(hidden, hidden), 1000.0
    x = torch.randn(4, 3, hidden) + far

    def results(dtype: torch.dtype, compiled: bool) -> list[Tensor]:
        cell.to(dtype)
        given = x.to(dtype, copy=True).requires_grad_()
        y, _ = Recurrent(cell, target="llvm" if compiled else "eager")(given)
        return [t.detach().double() for t in (y, *torch.autograd.grad(y.square().sum(), (given, cell.gain)))]

    for got, exact in zip(results(torch.float32, True), results(torch.float64, False), strict=True):
        close = 32 * far * torch.finfo(torch.float32).eps * max(1.0, float(exact.abs().max()))
        torch.testing.assert_close(got, exact, rtol=0, atol=close)


def test_a_matrix_that_only_a_comparison_reads_has_no_gradient() -> None:
    class Compared(Cell):
        h = state(H)
        R = param(H, H)

        def step(self, x: Tensor, h: Tensor) -> Any:
            return tanh((h @ self.R.T > x) * h)

    cell = Compared(4, 4, dtype=torch.float64)
    program = Program.of(cell, Bindings(dict(cell.named_parameters()), {}, {}), torch.float64, INTERPRETED)
    assert program.training(frozenset({"R"})).plan.pairs == {"R": []}
    y, _ = Recurrent(cell)(torch.randn(3, 2, 4, dtype=torch.float64), (torch.randn(2, 4, dtype=torch.float64),))
    y.sum().backward()
    assert cell.R.grad is None or not cell.R.grad.any()
