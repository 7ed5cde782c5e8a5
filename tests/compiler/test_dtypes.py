"""Every operation on truth values, integers and floats, mixed: what PyTorch makes of them, or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everloop.cell import Cell, H, I, param, state
from everloop.compiler.ir import Builder, Type
from everloop.compiler.symbol import Symbol
from everloop.compiler.targets import llvm
from everloop.compiler.trace import trace
from everloop.errors import UnsupportedError
from everloop.layers import Recurrent

pytestmark = pytest.mark.skipif(not llvm.is_available(), reason="needs llvmlite")
WIDTH = 3
FEW = torch.tensor([[-1.2, 0.3, 0.0], [0.4, -0.2, 2.0]])
Function = Callable[..., Any]
# What an operation is given, of the row x of the step.
GIVEN: dict[str, Function] = {
    "bool": lambda x: x > 0.1,
    "int": lambda x: (x > 0.1).long() + (x > -0.5),
    "small int": lambda x: (x > 0.1).int() * -3,
    "float32": lambda x: (x > 0.1).to(torch.float32),
    "float": lambda x: x * 1.5,
    "flat": lambda x: (x > 0.1).sum(-1).unsqueeze(-1),
    "one": lambda x: True,
    "two": lambda x: 2,
    "number": lambda x: 0.3,
}
ONE: dict[str, Function] = {
    **{
        name: getattr(torch, name)
        for name in [
            "neg",
            "abs",
            "sign",
            "relu",
            "sigmoid",
            "tanh",
            "exp",
            "expm1",
            "log1p",
            "sqrt",
            "floor",
            "square",
            "reciprocal",
            "clone",
            "detach",
            "isnan",
            "logical_not",
            "bitwise_not",
            "ones_like",
            "zeros_like",
            "positive",
            "sin",
            "erf",
        ]
    },
    "full_like": lambda a: torch.full_like(a, 2.7),
    "full_like long": lambda a: torch.full_like(a, 2.7, dtype=torch.long),
    "full_like bool": lambda a: torch.full_like(a, 2.7, dtype=torch.bool),
    "ones_like int": lambda a: torch.ones_like(a, dtype=torch.int32),
    "new_full": lambda a: a.new_full(a.shape, 2),
    "new_ones": lambda a: a.new_ones(a.shape[0], a.shape[1]),
    "new_zeros": lambda a: a.new_zeros(a.shape) + a,
    "float": lambda a: a.float(),
    "double": lambda a: a.double(),
    "bool": lambda a: a.bool(),
    "long": lambda a: a.long(),
    "int": lambda a: a.int(),
    "to short": lambda a: a.to(torch.int16),
    "type_as": lambda a: a.type_as(a > 0),
    "sum": lambda a: a.sum(-1, keepdim=True),
    "sum float": lambda a: a.sum(-1, keepdim=True, dtype=torch.float32),
    "flat sum": lambda a: a.sum(-1).unsqueeze(-1),
    "mean": lambda a: a.mean(-1, keepdim=True),
    "amax": lambda a: a.amax(-1, keepdim=True),
    "amin": lambda a: a.amin(-1, keepdim=True),
    "std": lambda a: a.std(-1, keepdim=True),
    "softmax": lambda a: a.softmax(-1),
    "logsumexp": lambda a: a.logsumexp(-1, keepdim=True),
    "softplus": F.softplus,
    "clamp": lambda a: a.clamp(0, 1),
    "clamp number": lambda a: a.clamp(max=0.3),
    "cube": lambda a: a**3,
    "power": lambda a: a**1.5,
    "slice": lambda a: a[:, 1:],
    "feature": lambda a: a[:, 1].unsqueeze(1),
    "expand": lambda a: a[:, :1].expand_as(a),
    "halves": lambda a: torch.cat(a.chunk(2, -1)[::-1], -1),
    "stack": lambda a: torch.stack(a.unbind(-1), -1),
    "div floor": lambda a: torch.div(a, 2, rounding_mode="floor"),
    "layer_norm": lambda a: F.layer_norm(a, (a.shape[-1],)),
    "where": lambda a: torch.where(a > 0, a, 0),
    "where number": lambda a: torch.where(a > 0, 1.0, 0.3),
}
TWO: dict[str, Function] = {
    **{
        name: getattr(torch, name)
        for name in [
            "add",
            "sub",
            "mul",
            "div",
            "maximum",
            "minimum",
            "lt",
            "le",
            "gt",
            "ge",
            "eq",
            "ne",
            "logical_and",
            "logical_or",
            "logical_xor",
            "bitwise_and",
            "bitwise_or",
            "bitwise_xor",
            "pow",
            "rsub",
        ]
    },
    "operators": lambda a, b: (a + b) * b,
    "minus": lambda a, b: a - b,
    "alpha": lambda a, b: torch.add(a, b, alpha=2),
    "alpha number": lambda a, b: torch.sub(a, b, alpha=0.1),
    "where": lambda a, b: torch.where(a > 0.5, a, b),
    "cat": lambda a, b: torch.cat([a, b], -1),
    "masked_fill": lambda a, b: a.masked_fill(a > 0, b),
    "clamp": lambda a, b: a.clamp(min=b),
    "lerp": lambda a, b: torch.lerp(a, b, 0.5),
    "addcmul": lambda a, b: torch.addcmul(a, b, b, value=2),
    "in place": lambda a, b: a.clone().__iadd__(b),
}


def expressions() -> Iterator[tuple[str, Function]]:
    """Yield expressions of x [B, 3]."""
    rows = [name for name in GIVEN if name not in ("one", "two", "number")]
    for op, one in ONE.items():
        yield from ((f"{op}({a})", lambda x, f=one, a=a: f(GIVEN[a](x))) for a in rows)
    few = ["bool", "int", "float32", "float"]
    pairs = [(a, b) for a in GIVEN for b in GIVEN if (a in few or b in few) and not {a, b} & {"small int", "flat"}]
    for op, two in TWO.items():
        yield from ((f"{op}({a}, {b})", lambda x, f=two, a=a, b=b: f(GIVEN[a](x), GIVEN[b](x))) for a, b in pairs)


def working(dtype: torch.dtype) -> Iterator[tuple[str, Function]]:
    """Yield the expressions that PyTorch itself computes; those of other types in a sum, too, where types count."""
    for name, function in expressions():
        if works(function, FEW.to(dtype)):
            yield name, function
            twice = lambda x, f=function: f(x) + f(x)  # noqa: E731
            if function(FEW.to(dtype)).dtype != dtype and works(twice, FEW.to(dtype)):
                yield f"{name}, twice", twice


def row(result: Tensor, like: Tensor) -> Tensor:
    """Return six floats of any result."""
    wide = torch.cat([result.to(like.dtype), torch.zeros_like(like), torch.zeros_like(like)], -1)
    return wide[:, :6]


def cell_of(functions: list[Function], dtype: torch.dtype) -> Cell:
    def step(self: Any, x: Tensor, h: Tensor) -> Tensor:
        parts = [row(f(x[:, k * WIDTH : (k + 1) * WIDTH]), x[:, :WIDTH]) for k, f in enumerate(functions)]
        return torch.cat(parts, -1) + 0.5 * h + 0.0 * x[:, :1] * self.p[:1]

    body = {"h": state(6 * len(functions)), "p": param(H, init=0.5), "step": step}
    made: Cell = type("Mixed", (Cell,), body)(WIDTH * len(functions), 2)
    return made.to(dtype)


def works(function: Function, x: Tensor) -> bool:
    """Whether PyTorch itself computes this and its gradient."""
    x = x.clone().requires_grad_()
    try:
        torch.autograd.grad((row(function(x), x) + x[:, :1]).sum(), x)
    except (RuntimeError, TypeError, AttributeError, IndexError):
        return False
    return True


def follows(function: Function, dtype: torch.dtype) -> bool:
    """Whether the compiler follows this; a whole step of such functions is traced later."""
    builder = Builder()
    x = Symbol(builder.input("x", "x", Type((WIDTH,), rows=True, dtype=dtype)), builder, dtype)
    try:
        row(function(x), x)  # type: ignore[arg-type]
    except (UnsupportedError, RuntimeError, TypeError, AttributeError, IndexError):
        return False
    return True


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_is_followed_is_what_pytorch_computes(dtype: torch.dtype) -> None:
    known = {name: f for name, f in working(dtype) if follows(f, dtype)}
    assert len(known) > (600 if dtype == torch.float64 else 1000)
    names = list(known)
    for start in range(0, len(names), 60):
        part = names[start : start + 60]
        cell = cell_of([known[name] for name in part], dtype)
        x = torch.randn(2, 3, cell.input_size, dtype=dtype, requires_grad=True)
        factors = torch.randn(2, 3, cell.output_size, dtype=dtype)
        with torch.no_grad():
            x[0, 0] = FEW[0].repeat(len(part))
        compiled, _ = Recurrent(cell, target="llvm")(x)
        states = [torch.zeros(3, cell.output_size, dtype=dtype)]
        for x_t in x:
            states.append(cell.step(x_t, states[-1]))
        meant = torch.stack(states[1:])
        gradients = [torch.autograd.grad(y, x, factors)[0] for y in (compiled, meant)]
        compare(part, 6, compiled, meant)
        compare(part, WIDTH, *gradients)


def compare(names: list[str], width: int, found: Tensor, meant: Tensor) -> None:
    """Say by name which columns differ."""
    close = torch.isclose(found, meant, rtol=1e-12 if found.dtype == torch.float64 else 1e-5, atol=1e-6, equal_nan=True)
    wrong = (~close).sum((0, 1)).view(-1, width).sum(-1)
    assert not [(name, int(n)) for name, n in zip(names, wrong, strict=True) if n]


FOLLOWED: dict[str, Function] = {
    "sums and products of truth": lambda x: ((x > 0) * (x > -1) + (x < 2) * (x > -2)) * 1.0,
    "cat": lambda x: torch.cat([x > 0, x < 0.5], -1) + torch.cat([x > 0, x > 1], -1),
    "expand_as": lambda x: (x[:, :1] > 0).expand_as(x) + (x > 0),
    "to": lambda x: (x > 0).to(torch.bool) + (x > 0),
    "amax": lambda x: (x > 0).amax(-1, keepdim=True) + (x > 0),
    "maximum": lambda x: torch.maximum(x > 0, x < 1) + (x > 0),
    "where": lambda x: torch.where(x > 0, x > 1, x < 0) + (x > -1),
    "ones_like": lambda x: torch.ones_like(x > 0) + (x > 0),
    "new_full": lambda x: (x > 0).new_full(x.shape, 1) + (x > 0),
    "whole": lambda x: torch.full_like(x, 2.7, dtype=torch.long),
    "spikes": lambda x: (x > 0).float() * 0.7 + x,
    "count": lambda x: (x > 0).sum(-1, keepdim=True) * x,
    "number by number": lambda x: torch.sub(x, 1, alpha=0.1) + torch.add(x, 2, alpha=0.5),
    "a tensor by a tensor": lambda x: torch.addcmul(x, torch.ones(3, dtype=x.dtype), torch.arange(3.0, dtype=x.dtype)),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_followed(name: str) -> None:
    assert follows(FOLLOWED[name], torch.float64)
    cell = cell_of([FOLLOWED[name]], torch.float64)
    x, h = torch.randn(1, 5, WIDTH, dtype=torch.float64), torch.zeros(5, 6, dtype=torch.float64)
    torch.testing.assert_close(Recurrent(cell, target="llvm")(x)[0][0], cell.step(x[0], h))


REFUSED: dict[str, tuple[Function, str]] = {
    "large": (lambda x: (x > 0).long() * 2**30 * 2**30, "integers of torch.int64 that may be too large"),
    "small": (lambda x: (x > 0).to(torch.int16) * 300 * 300, "integers of torch.int16 that may be too large"),
    "cut off": (lambda x: x.long(), "'long' with integers of torch.int64"),
    "narrow": (lambda x: (x > 0) * 0.3 * 0.3, "rounding to dtype torch.float32"),
    "difference of truth": (lambda x: (x > 0) - True, "subtraction with a truth value"),
    "refused by PyTorch": (lambda x: F.relu(x > 0), "'relu', which PyTorch refuses"),
    "another device": (lambda x: x.to("meta"), "on meta"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    function, message = REFUSED[name]
    cell = cell_of([function], torch.float64)
    with pytest.raises(UnsupportedError, match=message):
        trace(cell, dict(cell.named_parameters()), dtype=torch.float64)


def test_fixed_values_keep_their_types() -> None:
    class Masked(Cell):
        h = state(H)
        W, p = param(H, I), param(H)
        keep: Tensor
        count: Tensor

        def __init__(self, *sizes: int) -> None:
            super().__init__(*sizes)
            self.register_buffer("keep", torch.tensor([True, False, True]))
            self.register_buffer("count", torch.tensor([1, 2, 3]))

        def step(self, x: Tensor, h: Tensor) -> Tensor:
            kept = self.keep.cumsum(0) / self.keep.sum() + (self.p > 0) * self.keep + (self.p > 0).any()
            return torch.tanh(x @ self.W.T + h * kept) * self.count + torch.isfinite(self.p)

    cell, x = Masked(4, 3), torch.randn(5, 2, 4)
    torch.testing.assert_close(Recurrent(cell, target="llvm")(x), Recurrent(cell, target="eager")(x))
