"""The passes one by one: tables that cover each other, what is hoisted, merged, saved, and sub-gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from everloop import cells
from everloop.cell import Cell, H, I, param, state
from everloop.compiler.bindings import Bindings
from everloop.compiler.gradient import differentiate
from everloop.compiler.hoist import Split, split
from everloop.compiler.ir import Builder, Graph, Type
from everloop.compiler.loop import Map, Product
from everloop.compiler.lower import lower
from everloop.compiler.operations import OPERATIONS
from everloop.compiler.passes import plan_training
from everloop.compiler.plan import plan_forward
from everloop.compiler.simplify import simplify
from everloop.compiler.targets import llvm
from everloop.compiler.targets.llvm.features import REDUCTIONS
from everloop.compiler.trace import trace
from everloop.diagnose import agree
from everloop.layers import Recurrent
from tests.layers.calls import run
from tests.zoo import NAMES, make, values

D = torch.float64


def parts(cell: Cell) -> Split:
    read = values(cell, 2, 3)
    return split(simplify(trace(cell, read.fixed, read.rows, read.steps)))


def products(split: Split) -> list[tuple[str, str]]:
    loop = plan_forward(split).loop
    return [(s.source.name, s.matrix.name) for s in loop.stages if isinstance(s, Product)]


def stages(split: Split) -> list[Map]:
    """Return the maps of the loop and of its gradient."""
    plan = plan_training(split, frozenset(split.loop_inputs))
    return [s for loop in (plan.forward.loop, plan.gradient) for s in loop.stages if isinstance(s, Map)]


def test_every_table_covers_every_operation() -> None:
    for row in OPERATIONS.values():
        assert (row.gradient is not None) == (row.kind in ("map", "reduce")), row.name
    core = {name for name, row in OPERATIONS.items() if row.core}
    assert core - {"cast"} == set(llvm.operations()), "this target stores what it computes with"
    assert {name for name, row in OPERATIONS.items() if row.kind == "reduce"} == set(REDUCTIONS)
    b = Builder()
    for name, row in OPERATIONS.items():
        if row.lowering is None or row.arity < 0:
            continue
        args = [b.make("input", data=("state", f"s{k}"), type=Type((3,), rows=True)) for k in range(row.arity)]
        value = b.make(name, *args)
        made = lower(b, value, value.args)
        assert all(v.operation.core or v.kind in ("input", "constant") for v in Graph({"": made}).values), name


@pytest.mark.parametrize("name", NAMES)
def test_every_pass_verifies(name: str) -> None:
    cell = make(name, 3, 4)
    cell.eval()
    found = parts(cell)
    for graph in (found.prologue, found.loop):
        graph.verify()
    gradient = differentiate(found.loop, [next(iter(found.loop.outputs))], frozenset(found.loop_inputs))
    gradient.graph.verify()
    training = plan_training(found, frozenset(found.loop_inputs))
    for loop in (training.forward.loop, training.gradient):
        for stage in loop.stages:
            if isinstance(stage, Map):
                ends = [i.op in ("store", "accumulate", "sum", "max") for i in stage.body]
                assert ends == sorted(ends), "loads and arithmetic come before stores"


def test_one_projection_of_the_input_leaves_the_loop() -> None:
    for cell in (cells.LSTM(3, 4), cells.GRU(3, 4), cells.PeepholeLSTM(3, 4), cells.MinimalGatedUnit(3, 4)):
        found = parts(cell)
        assert [v.group for v in found.loop_inputs.values()].count("sequence") == 1
        assert {v.args[0].op for v in found.prologue.values if v.kind == "product"} == {"input"}


def test_separate_gates_become_one_product() -> None:
    class Apart(Cell):
        """An LSTM with eight matrices."""

        h, c = cells.LSTM.states["h"], cells.LSTM.states["c"]

        def __init__(self, inputs: int, hidden: int) -> None:
            super().__init__(inputs, hidden)
            self.of_x = nn.ModuleList(nn.Linear(inputs, hidden) for _ in range(4))
            self.of_h = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in range(4))

        def step(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
            i, f, g, o = (a(x) + b(h) for a, b in zip(self.of_x, self.of_h, strict=True))
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            return o.sigmoid() * c.tanh(), c

    found = parts(Apart(3, 4))
    assert len(products(found)) == 1
    assert {n: v.type for n, v in found.loop_inputs.items() if v.group == "sequence"} == {
        "u1": Type((16,), rows=True, dtype=torch.float32)
    }
    assert len(plan_forward(found).loop.stages) == 2


def test_an_lstm_saves_gates_in_the_memory_of_its_input_and_no_tanh() -> None:
    training = plan_training(parts(cells.LSTM(3, 4)), frozenset({"R", "u1"}))
    assert sorted(v.op for v in training.rematerialisation.saved) == ["sigmoid", "sigmoid", "sigmoid", "tanh"]
    assert training.rematerialisation.states == ("h", "c")
    assert "tanh" in [v.op for v in training.rematerialisation.recomputed]
    assert training.forward.in_place == {"u1'": "u1"}
    assert training.emits == {"d(u1)": 16}
    assert [type(s).__name__ for s in training.gradient.stages] == ["Map", "Product"]


def test_a_state_is_written_where_a_later_map_has_it_anyway() -> None:
    found = parts(cells.FastWeights(3, 4))  # what A is read with comes later than what it is made of
    loops = plan_forward(found).loop, plan_training(found, frozenset(found.loop_inputs)).forward.loop
    for loop in loops:
        wide = [stage for stage in loop.stages if isinstance(stage, Map) and stage.width == 16]
        assert len(wide) == 1
        assert [i.op for i in wide[0].body if i.is_write][-1] == "sum"
        assert not any(b.kind == "scratch" and b.width == 16 for b in loop.buffers)


def test_a_simple_network_saves_nothing_but_its_output() -> None:
    training = plan_training(parts(cells.Elman(3, 4)), frozenset({"R", "u1"}))
    assert training.rematerialisation.saved == ()
    assert training.rematerialisation.states == ("h",)


def test_frozen_parameters_cost_nothing() -> None:
    found = parts(cells.PeepholeLSTM(3, 4))
    training = plan_training(found, frozenset({"u1"}))
    assert training.pairs == {}
    assert training.totals == {}


EDGES: dict[str, Any] = {
    "relu": torch.relu,
    "abs": torch.abs,
    "clamp": lambda a: a.clamp(0.0, 1.0),
    "hardtanh": lambda a: nn.functional.hardtanh(a, 0.0, 1.0),
    "maximum": lambda a: torch.maximum(a, a * 0),
    "minimum": lambda a: torch.minimum(a, a * 2),
    "leaky_relu": nn.functional.leaky_relu,
    "elu": lambda a: nn.functional.elu(a, 2.0),
    "amax": lambda a: a * 0 + a.amax(-1, keepdim=True),
    "power 0": lambda a: a**0.0 + (a.abs() + 1) ** 1.0,
    "where": lambda a: torch.where(a >= 0, a, 3 * a),
    "softplus": lambda a: nn.functional.softplus(a, threshold=0.0),
}


@pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
@pytest.mark.parametrize("name", EDGES)
def test_slopes_at_the_corners_are_pytorchs(name: str) -> None:
    class Corner(Cell):
        h = cells.Elman.states["h"]

        def step(self, x: Tensor, h: Tensor) -> Any:
            return EDGES[name](h + x)

    cell = Corner(4, 4)
    x = torch.tensor([[[0.0, 1.0, -1.0, 1.0]]], dtype=D, requires_grad=True)
    start = torch.zeros(1, 4, dtype=D, requires_grad=True)
    slopes = [
        torch.autograd.grad(run(cell, Bindings({}), x, (start,), target=target)[0].sum(), [x, start])
        for target in ("eager", "llvm")
    ]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=4 * torch.finfo(D).eps, atol=0)


class Narrow(Cell):
    """A product one wide meets a wider vector: no bias of that product."""

    h = state(H)
    w, b = param(1, I), param(H)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(x @ self.w.T + self.b + h)


def test_a_vector_wider_than_a_product_is_not_its_bias() -> None:
    torch.manual_seed(0)
    agreement = agree(Recurrent(Narrow(3, 5)).to(D), torch.randn(4, 2, 3, dtype=D))
    assert agreement, agreement


class Diffusing(Cell):
    """Turns that each read the state before at its own features, one before and one behind."""

    n: int = 2

    h = state(H)
    W = param(H, I)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        u = x @ self.W.T
        for _ in range(self.n):
            h = h + 0.07 * (torch.roll(h, 1, -1) + torch.roll(h, -1, -1) - 2 * h) + u
        return h


def test_shifts_of_shifts_compute_nothing_again() -> None:
    values, lines = [], []
    for n in (2, 4, 6):
        found = parts(Diffusing(4, 32, n=n))
        values.append(len(found.loop.values))
        lines.append(sum(len(s.body) for s in stages(found)))
    assert values[2] - values[1] == values[1] - values[0]
    assert lines[2] - lines[1] < 2 * (lines[1] - lines[0])
    agreed = agree(Recurrent(Diffusing(4, 5, n=4, dtype=D)), torch.randn(3, 2, 4, dtype=D), reference="loop")
    assert agreed, agreed


class Multiplied(Diffusing):
    """Turns whose gradient reads shifts of products of shifts."""

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        u = x @ self.W.T
        for k in range(self.n):
            h = torch.tanh(torch.roll(h, 1, -1)) * torch.roll(h, -1, -1) + u * k
        return h


def test_the_gradient_of_shifts_computes_nothing_again() -> None:
    lines = []
    for n in (4, 8, 12):
        found = parts(Multiplied(4, 32, n=n))
        made = plan_training(found, frozenset(found.loop_inputs)).gradient.stages
        lines.append(sum(len(stage.body) for stage in made if isinstance(stage, Map)))
    assert lines[2] - lines[1] <= 1.1 * (lines[1] - lines[0])
    agreed = agree(Recurrent(Multiplied(4, 5, n=5, dtype=D)), torch.randn(3, 2, 4, dtype=D), reference="loop")
    assert agreed, agreed


class Clamped(Cell):
    """A long chain of element-wise operations."""

    n: int = 400

    h = state(H)
    W = param(H, I)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        u = x @ self.W.T
        for k in range(self.n):
            h = (h * (1 - 0.001 * k) + u).clamp(-1, 1)
        return h


class OneFeature(Clamped):
    """A long chain of one feature, which all features read."""

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        s = h.mean(-1, keepdim=True)
        for k in range(self.n):
            s = 0.9 * s + 0.001 * k
        return torch.tanh(x @ self.W.T + s)


@pytest.mark.parametrize("kind", [Clamped, OneFeature])
def test_long_chains_are_planned(kind: type[Cell]) -> None:
    cell, x = kind(4, 5, dtype=D), torch.randn(2, 3, 4, dtype=D)
    agreed = agree(Recurrent(cell), x, reference="loop")
    assert agreed, agreed
    y, _ = Recurrent(cell).step(x[0])
    torch.testing.assert_close(y, cell.step(x[0], torch.zeros(3, 5, dtype=D)))
