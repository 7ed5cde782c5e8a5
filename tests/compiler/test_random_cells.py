"""Random cells over random lengths and resets: values and every gradient against eager, in float64."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call
from everloop.compiler.interpreter import INTERPRETED
from everloop.compiler.program import Program
from everloop.compiler.target import LoopTarget, reference
from everloop.compiler.targets import llvm
from everloop.compiler.targets.llvm.target import TARGET
from everloop.layers.autograd_function import compute
from tests.compiler.random_cells import Case, cases

CELLS = int(os.environ.get("EVERLOOP_RANDOM_CELLS", "200"))
TOLERANCE = 1e-9  # float64, at most six steps; the random slopes multiply rounding by up to a million


def results(case: Case, target: LoopTarget | None) -> tuple[list[Tensor], list[Tensor]]:
    """Return the output and final states, and the gradients of everything."""
    cell = case.cell()
    torch.manual_seed(case.seed)
    values = Bindings(*case.values(cell))
    shape = (case.batch, case.steps) if case.batch_major else (case.steps, case.batch)
    x = torch.randn(*shape, case.inputs, dtype=torch.float64)
    x = (x.transpose(0, 1) if case.batch_major else x).requires_grad_()
    start = tuple(torch.randn(case.batch, n, dtype=torch.float64, requires_grad=True) for n in case.sizes)
    restart = tuple(torch.randn(n, dtype=torch.float64, requires_grad=True) for n in case.sizes)
    lengths = torch.randint(0, case.steps + 1, (case.batch,)) if case.lengths else None
    reset = torch.rand(case.steps, case.batch) < 0.3 if case.reset else None
    options: Any = {"lengths": lengths, "reset": reset, "reverse": case.reverse}
    call = Call.of(values, x, start, restart, **options)
    if target is None:
        y, final = reference().run(cell, call)
    else:
        program = Program.of(cell, values, torch.float64, target)
        y, final = compute(program, call)
        with torch.no_grad():
            again = compute(program, Call.of(values, x, start, restart, **options))
        torch.testing.assert_close([again[0], *again[1]], [y, *final], rtol=TOLERANCE, atol=TOLERANCE)
    leaves = [x, *start, *restart, *values.fixed.values(), *values.rows.values(), *values.steps.values()]
    weights = [torch.randn(t.shape, dtype=torch.float64) for t in (y, *final)]
    loss = sum((t * w).sum() for t, w in zip((y, *final), weights, strict=True))
    assert isinstance(loss, Tensor)
    grads = torch.autograd.grad(loss, leaves, allow_unused=True) if loss.requires_grad else [None] * len(leaves)
    return [y, *final], [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, grads, strict=True)]


def check(case: Case, target: LoopTarget) -> None:
    expected, slopes = results(case, None)
    values, grads = results(case, target)
    torch.testing.assert_close(values, expected, rtol=TOLERANCE, atol=TOLERANCE)
    largest = max((float(s.abs().max()) for s in slopes if s.numel()), default=1.0)
    torch.testing.assert_close(grads, slopes, rtol=TOLERANCE, atol=TOLERANCE * max(1.0, largest))


@settings(max_examples=CELLS, deadline=None, report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
@given(cases())
def test_passes(case: Case) -> None:
    check(case, INTERPRETED)


@pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
@settings(max_examples=CELLS // 4, deadline=None, report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
@given(cases())
def test_llvm(case: Case) -> None:
    check(case, TARGET)
