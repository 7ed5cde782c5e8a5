"""An element-wise operation is added by a row of the table and nothing else."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, tanh

from everloop.cell import Cell, H, I, param, state
from everloop.compiler import equations
from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call
from everloop.compiler.expression import Expression, of
from everloop.compiler.hoist import Split
from everloop.compiler.interpreter import INTERPRETED
from everloop.compiler.operations import OPERATIONS, TRANSCENDENTAL, Operation
from everloop.compiler.passes import plan_training, split_step
from everloop.compiler.precision import lowered
from everloop.compiler.program import Program
from everloop.compiler.report import plan_text
from everloop.compiler.symbol import functions
from everloop.compiler.target import LoopTarget
from everloop.compiler.targets.llvm.target import TARGET
from everloop.compiler.trace import trace
from everloop.compiler.verify import verified_training
from everloop.errors import UnsupportedError
from everloop.layers.autograd_function import compute

D = torch.float64
cos, equal, sin, where = of("cos"), of("equal"), of("sin"), of("where")


def _slope(g: Expression, y: Expression, a: Expression) -> Expression:
    return g * where(equal(a, 0.0), 0.0, (cos(a * math.pi) - y) / a)


SINC = Operation(
    "sinc", "map", 1, torch.sinc, "sinc({0})", r"\operatorname{{sinc}}({0})", gradient=_slope,
    lowering=lambda a: where(equal(a, 0.0), 1.0, sin(a * math.pi) / (a * math.pi)),
    cost=TRANSCENDENTAL, functions=("sinc", "special_sinc"),
)  # fmt: skip


class Wave(Cell):
    """A state that passes a sine divided by its angle, before the loop and inside it."""

    h = state(H)
    W, R = param(H, I), param(H, H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        u = torch.sinc(x @ self.W.T)
        return tanh(u + torch.special.sinc(3 * h) @ self.R.T) - 0.5 * torch.sinc(h * u)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(OPERATIONS, "sinc", SINC)
    monkeypatch.setenv("EVERLOOP_CACHE", str(tmp_path))  # plans are kept by the compiler's sources, which know no sinc


def cell() -> Wave:
    torch.manual_seed(0)
    return Wave(3, 5, dtype=D)


def split_of(made: Cell) -> Split:
    return split_step(trace(made, dict(made.named_parameters()), dtype=D))


def test_without_the_row_it_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="the operation 'sinc'"):
        split_of(cell())


@pytest.mark.usefixtures("added")
def test_every_pass_knows_it() -> None:
    split = split_of(cell())
    assert "sinc" in {v.op for v in split.loop.values}
    plan = verified_training(plan_training(split, frozenset(split.loop_inputs)))
    assert any(v.op == "sinc" for v in plan.rematerialisation.saved + plan.rematerialisation.recomputed)
    assert all(v.operation.core for v in lowered(split.loop, (), split.loop.dtype).values if v.kind == "map")
    assert "sinc" in plan_text(split)


@pytest.mark.usefixtures("added")
def test_it_is_shown() -> None:
    made = cell()
    graph = trace(made, dict(made.named_parameters()), dtype=D)
    assert "sinc(3 * h[t-1]) @ R.T" in equations.text(graph)
    assert r"\operatorname{sinc}(3 \odot h_{t-1})" in equations.latex(graph)
    assert {"sinc", "special_sinc"} <= set(functions())  # what docs/make.py lists


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize("target", [INTERPRETED, TARGET], ids=["interpreter", "llvm"])
def test_values_and_gradients_are_autograds(target: LoopTarget) -> None:
    made = cell()
    x = torch.randn(7, 2, 3, dtype=D, requires_grad=True)
    program = Program.of(made, Bindings(dict(made.named_parameters())), D, target)
    zeros = torch.zeros(2, 5, dtype=D)
    y, _ = compute(program, Call.of(Bindings(dict(made.named_parameters())), x, (zeros,)))
    assert y.grad_fn is not None
    h, expected = zeros, []
    for x_t in x:
        h = made.step(x_t, h)
        expected.append(h)
    torch.testing.assert_close(y, torch.stack(expected), rtol=1e-12, atol=1e-12)
    leaves, weights = [x, *made.parameters()], torch.randn(7, 2, 5, dtype=D)
    found = torch.autograd.grad((y * weights).sum(), leaves)
    wanted = torch.autograd.grad((torch.stack(expected) * weights).sum(), leaves)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
