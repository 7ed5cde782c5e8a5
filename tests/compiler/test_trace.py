"""Calling a step on symbols: every function means what PyTorch means, and what cannot be said is said clearly."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everloop.cell import Cell, H, I, bias, param, state
from everloop.compiler.evaluate import evaluate
from everloop.compiler.ir import Graph, Value
from everloop.compiler.simplify import simplify
from everloop.compiler.trace import trace
from everloop.errors import CellError, UnsupportedError
from tests.compiler.random_cells import BINARY, UNARY

D = torch.float64


def cell_of(function: Any) -> Cell:
    """Return a cell with two states of five whose step is `function`."""
    body = {"h": state(H), "c": state(H), "W": param(H, I), "p": param(H), "b": bias(H), "step": function}
    return type("Custom", (Cell,), body)(5, 5, dtype=D)


def results(cell: Cell, graph: Graph, x: Tensor, states: list[Tensor]) -> list[Tensor]:
    given = dict(zip(cell.state_sizes, states, strict=True))

    def leaf(value: Value) -> Tensor:
        if value.group == "literal":
            found: Tensor = value.data[1]
            return found
        tensors = dict(cell.named_parameters())
        return x if value.group == "x" else given[value.name] if value.group == "state" else tensors[value.name]

    return list(evaluate(graph, leaf, like=x).values())


def check(function: Any) -> Graph:
    """Compare the traced and simplified step with the step itself."""
    cell = cell_of(function)
    x, *states = torch.randn(3, 4, 5, dtype=D).unbind()
    graph = trace(cell, dict(cell.named_parameters()), dtype=D)
    expected = list(cell.step(x, *states))
    for each in (graph, simplify(graph)):
        each.verify()
        found = [r.expand(4, -1) for r in results(cell, each, x, states)]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    return graph


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_row(name: str) -> None:
    def step(self: Any, x: Tensor, h: Tensor, c: Tensor) -> Any:
        return h + UNARY[name](x + h).mean(-1, keepdim=True), c

    check(step)


@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_rows(name: str) -> None:
    def step(self: Any, x: Tensor, h: Tensor, c: Tensor) -> Any:
        return BINARY[name](h, x)[..., :5], BINARY[name](x, c)[..., -5:]

    check(step)


MORE: dict[str, Any] = {
    "selu": F.selu,
    "prelu": lambda a: F.prelu(a, torch.tensor([0.3], dtype=D)),
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "mish": F.mish,
    "logsigmoid": F.logsigmoid,
    "tanhshrink": F.tanhshrink,
    "softplus with a slope": lambda a: F.softplus(a, beta=2.0, threshold=1.0),
    "clamp by rows": lambda a: a.clamp(min=a.mean(-1, keepdim=True), max=0.5 * a.abs()),
    "logsumexp": lambda a: a - a.logsumexp(-1, keepdim=True),
    "var": lambda a: a / (a.var(-1, keepdim=True) + 1),
    "std": lambda a: a * a.std(dim=-1, unbiased=False, keepdim=True),
    "norm": lambda a: a / a.norm(dim=-1, keepdim=True),
    "amin": lambda a: a - a.amin(-1, keepdim=True),
    "addcmul": lambda a: torch.addcmul(a, a, a, value=0.5),
    "masked_fill": lambda a: a.masked_fill(a > 0, 2.0),
    "xor": lambda a: ((a > 0) ^ (a < 0.5)).to(a.dtype) * a,
    "ne": lambda a: (a != 0).double() * a,
    "rpow": lambda a: 2.0**a,
    "negative power": lambda a: (a.abs() + 1) ** -2,
    "power of a row": lambda a: (a.abs() + 0.1) ** a,
    "floor_divide": lambda a: torch.div(a, 0.3, rounding_mode="floor"),
    "unbind": lambda a: torch.stack([u * 2 for u in a.unbind(-1)], -1),
    "one feature": lambda a: a * a[:, 0].unsqueeze(1) + a[:, 1:2],
    "narrow": lambda a: torch.cat([a.narrow(-1, 2, 3), a.narrow(-1, 0, 2)], 1),
    "tensor_split": lambda a: torch.cat(a.tensor_split(2, -1)[::-1], -1),
    "split sizes": lambda a: torch.cat(torch.split(a, [2, 3], -1)[::-1], -1),
    "expand": lambda a: a.mean(-1, keepdim=True).expand(-1, a.shape[-1]) * a,
    "shapes": lambda a: a * a.size(-1) / math.sqrt(a.shape[1]) + a.ndim,
    "new_zeros": lambda a: torch.cat([a[:, :3], a.new_zeros(a.shape[0], 2)], -1),
    "constant vector": lambda a: a * torch.arange(5, dtype=D),
    "vector product": lambda a: a * (a @ torch.ones(5, dtype=D)).unsqueeze(-1),
}


@pytest.mark.parametrize("name", MORE)
def test_more_functions(name: str) -> None:
    def step(self: Any, x: Tensor, h: Tensor, c: Tensor) -> Any:
        return MORE[name](h + x), MORE[name](c)

    check(step)


def test_functions_of_fixed_values_run_before_the_loop() -> None:
    def step(self: Any, x: Tensor, h: Tensor, c: Tensor) -> Any:
        scale = torch.softmax(self.p, 0).cumsum(0)
        q, r = torch.linalg.qr(self.W)
        return (h * scale) @ q.T + F.normalize(self.p, dim=0), c @ (r / r.norm()) + x @ (2 * self.W)[:5].T

    check(step)


def test_modules_inside_a_step() -> None:
    class Modular(Cell):
        h = state(H)
        W = param(H, I)

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            first, last = nn.Linear(5, 7, dtype=D), nn.Linear(7, 5, dtype=D)
            self.inner = nn.Sequential(first, nn.ELU(), nn.LayerNorm(7, dtype=D), last)

        def step(self, x: Tensor, h: Tensor) -> Any:
            return self.inner(h) + x @ self.W.T

    cell = Modular(5, 5, dtype=D)
    x, h = torch.randn(2, 4, 5, dtype=D).unbind()
    graph = trace(cell, dict(cell.named_parameters()), dtype=D)
    torch.testing.assert_close(results(cell, graph, x, [h]), [cell.step(x, h)])


REFUSED: dict[str, tuple[Any, str]] = {
    "an unknown function": (lambda self, x, h, c: (torch.cummax(h, -1).values, c), "'cummax'"),
    "an unknown method": (lambda self, x, h, c: (h.median(-1).values, c), "'median'"),
    "control flow": (lambda self, x, h, c: (h if (h > 0).all() else c, c), "all over all axes, the batch too"),
    "a test of a value": (lambda self, x, h, c: (h if h > 0 else c, c), "control flow"),
    "a number": (lambda self, x, h, c: (h * float(x), c), "Python number"),
    "assignment": (lambda self, x, h, c: (h.__setitem__(0, 1), c), "assignment"),
    "iteration": (lambda self, x, h, c: (list(h), c), "iteration"),
    "the batch size": (lambda self, x, h, c: (h / x.shape[0], c), "Batch|batch size"),
    "dropout": (lambda self, x, h, c: (F.dropout(h), c), "the layer draws"),
    "random numbers": (lambda self, x, h, c: (h * torch.rand(5, dtype=D), c), "random numbers"),
    "the batch axis": (lambda self, x, h, c: (h - h.mean(0), c), "only features"),
    "another dtype": (lambda self, x, h, c: (h.float(), c), "dtype"),
    "in place": (lambda self, x, h, c: (h.add_(x), c), "add in place"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_names_the_operation_and_its_line(name: str) -> None:
    function, message = REFUSED[name]

    def step(self: Any, x: Tensor, h: Tensor, c: Tensor) -> Any:
        return function(self, x, h, c)

    cell = cell_of(step)
    with pytest.raises(UnsupportedError, match=message) as caught:
        trace(cell, dict(cell.named_parameters()), dtype=D)
    assert "test_trace.py:" in str(caught.value) or name == "random numbers"


def test_a_state_of_the_wrong_size_is_an_error_of_the_cell() -> None:
    def step(self: Any, x: Tensor, h: Tensor, c: Tensor) -> Any:
        return h, torch.cat([c, c], -1)

    cell = cell_of(step)
    with pytest.raises(CellError, match=r"row\[10\] for c; expected row\[5\]"):
        trace(cell, dict(cell.named_parameters()), dtype=D)
