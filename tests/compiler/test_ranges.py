"""What is proved of a value holds for every number it ever has."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, sigmoid, tanh
from torch.nn import functional as F

from everloop.cell import Cell, H, I, param, state
from everloop.compiler import intervals
from everloop.compiler.evaluate import evaluate
from everloop.compiler.intervals import ANY, Interval
from everloop.compiler.ir import Graph, Value
from everloop.compiler.operations import OPERATIONS
from everloop.compiler.ranges import Analysis, Ranges
from everloop.compiler.trace import trace
from tests import zoo
from tests.compiler.random_cells import Case, cases

D = torch.float64
SLACK = 1e-9  # ranges are of exact arithmetic
ELSEWHERE = {"input", "constant", "call", "sum", "linear", "matmul"}  # have no row: what `ranges` knows of them
# Ranges that hold for any weights and any input.
PROVED: dict[str, dict[str, tuple[float, float]]] = {
    "elman": {"h": (-1, 1)},
    "lstm": {"h": (-1, 1), "c": (-math.inf, math.inf)},
    "coupled-lstm": {"h": (-math.tanh(1), math.tanh(1)), "c": (-1, 1)},
    "projected-lstm": {"h": (-math.inf, math.inf), "c": (-math.inf, math.inf)},
    "gru": {"h": (-1, 1)},
    "reset-before-gru": {"h": (-1, 1)},
    "minimal-gated-unit": {"h": (-1, 1)},
    "recurrent-highway": {"h": (-1, 1)},
    "elman-relu": {"h": (0, math.inf)},
    "counter": {"h": (0, math.inf), "n": (0, math.inf)},
    "readout": {"h": (-1, 1), "y": (0, 1)},
    "zoneout": {"h": (-1, 1), "c": (-math.inf, math.inf)},
    "tapped": {"c": (0, 1)},
}


def graph_of(cell: Cell) -> tuple[Graph, Any]:
    values = zoo.values(cell, 1, 1)
    return trace(cell, values.fixed, values.rows, values.steps, D), values.fixed


def test_every_row_of_the_table_has_a_rule() -> None:
    assert {name for name, row in OPERATIONS.items() if row.interval is None} == ELSEWHERE


@pytest.mark.parametrize("name", PROVED)
def test_ranges_of_states(name: str) -> None:
    graph, _ = graph_of(zoo.make(name, 3, 4, dtype=D).eval())
    found = Analysis(graph).run().states
    for state_name, (low, high) in PROVED[name].items():
        assert (found[state_name].low, found[state_name].high) == pytest.approx((low, high), abs=1e-6), state_name


def mixture(number: int) -> Cell:
    """The same mixture, written in one of six ways."""

    class Mixed(Cell):
        h = state(H)
        W, R = param(2 * H, I), param(2 * H, H)

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            z, n = (x @ self.W.T + h @ self.R.T).chunk(2, -1)
            z, n = sigmoid(z), tanh(n)
            ways = [
                z * h + (1 - z) * n,
                (1 - z) * n + z * h,
                n + z * (h - n),
                h - (1 - z) * (h - n),
                torch.lerp(n, h, z),
                -((z - 1) * n) + h * z,
            ]
            return ways[number]

    return Mixed(2, 3, dtype=D)


@pytest.mark.parametrize("number", range(6))
def test_a_mixture_has_the_range_of_what_it_mixes(number: int) -> None:
    found = Analysis(graph_of(mixture(number))[0]).run().states["h"]
    assert (found.low, found.high) == (-1, 1)


Step = Callable[[Any, Tensor, Tensor], Tensor]  # of the cell, u and h
Range = tuple[float, float]
_WIDTH = 4


def _softmax(way: int) -> Step:
    def step(_: Any, u: Tensor, h: Tensor) -> Tensor:
        *gates, t, g = u.chunk(5, -1)
        each = [h, tanh(t), sigmoid(g)]
        if way == 0:
            p = torch.softmax(torch.stack(gates, -1), -1)
            return p[..., 0] * h + p[..., 1] * tanh(t) + p[..., 2] * sigmoid(g)
        if way == 1:
            return (torch.stack(gates, -1).softmax(-1) * torch.stack(each, -1)).sum(-1)
        a, b, c = torch.softmax(gates[0][..., :3], -1).chunk(3, -1)
        return each[0] * a + each[1] * b + each[2] * (c if way == 2 else 1 - a - b)

    return step


def _leak(_: Any, u: Tensor, h: Tensor) -> Tensor:
    a, b = u.chunk(2, -1)
    e = torch.exp(-F.softplus(a))
    return e * h + (1 - e) * tanh(b)


def _elu(_: Any, u: Tensor, h: Tensor) -> Tensor:
    return -F.elu(u.neg()).clamp(max=0.5)


# For any weights and any input: how many rows of u there are for each of h, the step, and the range of h.
BOUNDED: dict[str, tuple[int, Step, Range]] = {
    "relu6": (1, lambda _, u, h: F.relu6(u), (0, 6)),
    "hardtanh": (1, lambda _, u, h: F.hardtanh(u, -2, 1), (-2, 1)),
    "hardsigmoid": (1, lambda _, u, h: F.hardsigmoid(u), (0, 1)),
    "by hand": (1, lambda _, u, h: torch.where(2 * u + 1 > 3, 1.0, torch.where(u < -1, -1.0, u)), (-1, 1)),
    "sin": (1, lambda _, u, h: u.sin() + 2 * u.cos(), (-3, 3)),
    "elu": (1, _elu, (-0.5, 1)),
    "normalize": (1, lambda _, u, h: F.normalize(u, dim=-1), (-1, 1)),
    "unit": (1, lambda _, u, h: u / u.norm(dim=-1, keepdim=True), (-1, 1)),
    "layer_norm": (1, lambda _, u, h: F.layer_norm(u, (_WIDTH,)), (-2, 2)),
    "relu of layer_norm": (1, lambda _, u, h: F.relu(F.layer_norm(u, (_WIDTH,))), (0, 2)),
    "rms_norm": (1, lambda _, u, h: 3 * F.rms_norm(u, (_WIDTH,)), (-6, 6)),
    "group_norm": (1, lambda _, u, h: F.group_norm(u, 2), (-math.sqrt(2), math.sqrt(2))),
    "algebraic": (1, lambda _, u, h: u * torch.rsqrt(1 + u * u), (-1, 1)),
    "softsign": (1, lambda _, u, h: F.softsign(u), (-1, 1)),
    **{f"softmax {way}": (5, _softmax(way), (-1, 1)) for way in range(4)},
    "softplus": (2, _leak, (-1, 1)),
}  # fmt: skip
# Of the same kind, but not bounded: a fact that does not hold, or a sum that is not the one of the parts.
UNBOUNDED: dict[str, tuple[int, Step]] = {
    "elsewhere": (1, lambda _, u, h: torch.where(u.flip(-1) < 1, u, 0.0).clamp(min=-1)),
    "moved": (1, lambda _, u, h: torch.where(u < 1, u.flip(-1), 0.0).clamp(min=-1)),
    "not smaller than NaN": (1, lambda _, u, h: torch.where(u < sigmoid(u.flip(-1)), 0.0, u).clamp(max=1)),
    "the other way": (1, lambda _, u, h: torch.where(u < 1, 0.0, u)),
    "not compared": (1, lambda _, u, h: torch.where(h < u * 0, torch.relu(u), 0.0)),
    "another length": (1, lambda _, u, h: u / (h.norm(dim=-1, keepdim=True) + 1)),
    "half of the row": (1, lambda _, u, h: u / (u[..., :2].norm(dim=-1, keepdim=True) + 1)),
    "turned": (1, lambda _, u, h: u / (1 + u.flip(-1).abs())),
}


def bounded(rows: int, step: Step) -> Cell:
    class Bounded(Cell):
        h = state(H)
        W, R = param(rows * H, I), param(rows * H, H)

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return step(self, x @ self.W.T + h @ self.R.T, h)

    return Bounded(3, _WIDTH, dtype=D)


@pytest.mark.parametrize("name", BOUNDED)
def test_what_bounds_a_state(name: str) -> None:
    rows, step, expected = BOUNDED[name]
    torch.manual_seed(1)
    cell = bounded(rows, step)
    with torch.no_grad():
        cell.W.mul_(9.0)  # type: ignore[operator]
    graph, fixed = graph_of(cell)
    found = Analysis(graph).run()
    assert (found.states["h"].low, found.states["h"].high) == pytest.approx(expected, abs=1e-6)
    states_stay(cell, graph, Analysis(graph, fixed).run())


@pytest.mark.parametrize("name", UNBOUNDED)
def test_what_does_not(name: str) -> None:
    found = Analysis(graph_of(bounded(*UNBOUNDED[name]))[0]).run().states["h"]
    assert not found.is_bounded


def test_a_layer_norm_with_a_scale_and_a_shift() -> None:
    class Normed(Cell):
        h = state(H)
        W, R, g, b = param(H, I), param(H, H), param(H), param(H)

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            return F.layer_norm(x @ self.W.T + h @ self.R.T, (4,), self.g, self.b)

    cell = Normed(3, 4, dtype=D)
    graph, fixed = graph_of(cell)
    size = Analysis(graph, fixed).run().states["h"].size
    assert size <= 2 * float(cell.g.detach().abs().max()) + float(cell.b.detach().abs().max()) + 1e-9


def test_spikes_are_0_or_1() -> None:
    found = Analysis(graph_of(zoo.make("lif", 3, 4, dtype=D))[0]).run().states["s"]
    assert (found.low, found.high) == (0, 1)


def test_a_state_that_began_outside_of_its_range() -> None:
    graph, _ = graph_of(zoo.make("gru", 2, 3, dtype=D))
    assert Analysis(graph).run({"h": Interval(0.0, 3.0)}).states["h"] == Interval(-1.0, 3.0)


def test_a_matrix_whose_numbers_are_known_bounds_its_product() -> None:
    cell = zoo.make("projected-lstm", 2, 4, dtype=D)
    graph, fixed = graph_of(cell)
    found = Analysis(graph, fixed).run().states["h"]
    assert found.size == pytest.approx(float(fixed["V"].detach().abs().sum(1).max()))


def states_stay(cell: Cell, graph: Graph, ranges: Ranges, steps: int = 8, batch: int = 5) -> None:
    """Run a cell on large and small inputs and compare every value of every step."""
    values = zoo.values(cell, steps, batch)
    by_place = list(ranges.values.values())
    states = {name: torch.zeros(batch, n, dtype=D) for name, n in cell.state_sizes.items()}
    for t in range(steps):
        x = torch.randn(batch, cell.input_size, dtype=D) * 4.0 ** (t % 4 - 1)

        at_step = {name: rows[t] for name, rows in values.steps.items()}
        known = values.fixed | values.rows | at_step | states | {"x": x}

        def leaf(v: Value, known: dict[str, Tensor] = known) -> Any:
            found: Tensor = v.data[1] if v.group == "literal" else known[v.name]
            return found if v.group in ("fixed", "literal") else found.flatten(1).to(D)

        everything = Graph(dict(zip(map(str, range(len(graph.values))), graph.values, strict=True)))
        found = evaluate(everything, leaf, x)
        for number, interval in zip(found.values(), by_place, strict=True):
            if isinstance(number, Tensor) and number.is_floating_point() and number.isfinite().all():
                slack = SLACK * max(1.0, interval.size if interval.is_bounded else 0.0)
                assert interval.low - slack <= number.min(), interval
                assert number.max() <= interval.high + slack, interval
        states = {name: found[str(graph.values.index(graph.outputs[name]))].detach() for name in states}


@pytest.mark.parametrize("name", zoo.ALL)
def test_no_value_of_a_cell_leaves_its_range(name: str) -> None:
    torch.manual_seed(3)
    cell = zoo.make(name, 3, 4, dtype=D).eval()
    graph, fixed = graph_of(cell)
    states_stay(cell, graph, Analysis(graph, fixed).run())


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_no_value_of_a_random_cell_leaves_its_range(case: Case) -> None:
    cell = case.cell()
    fixed, rows, steps = case.values(cell)
    graph = trace(cell, fixed, rows, steps, D)
    ranges = Analysis(graph, fixed).run()
    states = {name: torch.zeros(4, n, dtype=D) for name, n in cell.state_sizes.items()}
    for _ in range(5):
        known = {"row": torch.randn(4, case.row, dtype=D), "mask": torch.rand(4, case.mask, dtype=D)}
        known |= fixed | states | {"x": torch.randn(4, case.inputs, dtype=D) * 3}

        def leaf(v: Value, known: dict[str, Tensor] = known) -> Any:
            return v.data[1] if v.group == "literal" else known[v.name]

        found = evaluate(Graph({n: graph.outputs[n] for n in states}), leaf, known["x"])
        states = {name: t.detach() for name, t in found.items()}
        for name, t in states.items():
            interval = ranges.states[name]
            assert interval.low - SLACK <= t.min(), name
            assert t.max() <= interval.high + SLACK, name


numbers = st.floats(-20, 20).filter(lambda x: not 0 < abs(x) < 1e-300)  # smaller ones a processor may take for 0
ELEMENTWISE = sorted(n for n, row in OPERATIONS.items() if row.kind == "map" and row.arity > 0 and n != "cast")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ELEMENTWISE), st.lists(st.tuples(numbers, numbers), min_size=3, max_size=3), st.integers(0, 99))
def test_results_of_an_operation_lie_in_its_interval(name: str, ends: list[tuple[float, float]], seed: int) -> None:
    row = OPERATIONS[name]
    intervals = [Interval(min(e), max(e)) for e in ends[: row.arity]]
    assert row.interval is not None
    found = row.interval(*intervals)
    torch.manual_seed(seed)
    mixed = torch.cat([torch.rand(40, 3, dtype=D), torch.randint(0, 2, (10, 3)).double()])  # corners among them
    args = [(i.low + mixed[:, k] * (i.high - i.low)).clamp(i.low, i.high) for k, i in enumerate(intervals)]
    results = row.meaning(*args)
    if found != ANY:
        assert not results.isnan().any()
        slack = SLACK * results.abs().clamp(min=1.0, max=1e300)
        assert ((found.low <= results) | (found.low - slack <= results)).all()
        assert ((results <= found.high) | (results <= found.high + slack)).all()


@pytest.mark.parametrize(("a", "b"), [(49.0, 49.0), (1.0, 0.1), (-1.0, 0.1), (6.0, 0.2)])
def test_a_quotient_that_is_whole_only_when_rounded(a: float, b: float) -> None:
    rule = OPERATIONS["floor_divide"].interval
    assert rule is not None
    found = rule(Interval(a, a), Interval(b, b))
    assert found.low <= a // b <= found.high


def test_how_an_interval_reads() -> None:
    assert list(map(str, (Interval(-1, 1), ANY, Interval(0, math.inf)))) == ["[-1, 1]", "(-∞, ∞)", "[0, ∞)"]


def test_the_ends_of_logit() -> None:
    assert intervals.logit(0.5) == 0
    for low, high in ((0.0, 1.0), (0.5, 1.0), (0.0, 0.25)):
        found = OPERATIONS["logit"].interval(Interval(low, high))  # type: ignore[misc]
        inside = torch.linspace(low, high, 11, dtype=torch.float64).logit()
        assert (found.low, found.high) == pytest.approx((float(inside.min()), float(inside.max())))
