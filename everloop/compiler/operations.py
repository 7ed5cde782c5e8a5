"""The table of operations: one row an operation, read by every pass and by every target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

Kind = Literal["input", "constant", "map", "reduce", "product", "layout", "call"]


@dataclass(frozen=True)
class Operation:
    """One row of the table.

    kind:    input, constant, map (element by element), reduce (over features), product (with a matrix), layout
             (moves features, computes nothing), call (any PyTorch function of fixed values, run before the loop).
    arity:   how many arguments; -1 for any number.
    meaning: the same on tensors.
    text, latex: how an equation shows it; {0}, {1}, … are the arguments, {data} the attributes.
    binding: how tightly the text binds (a looser argument gets parentheses); 9 for a function call.
    core:    whether a Map of the Loop may contain it; the others are rewritten by `plan` (see `lower`).
    """

    name: str
    kind: Kind
    arity: int
    meaning: Callable[..., Any]
    text: str
    latex: str
    binding: int = 9
    core: bool = False


def _mask(result: torch.Tensor, like: Any) -> torch.Tensor:
    return result.to(like.dtype if isinstance(like, torch.Tensor) else torch.get_default_dtype())


def _compare(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda a, b: _mask(function(a, b), a if isinstance(a, torch.Tensor) else b)


def _tensor(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return `function` of two values, at most one of them a number."""
    return lambda a, b: function(torch.as_tensor(a), torch.as_tensor(b))


def _root(a: torch.Tensor) -> torch.Tensor:
    """Return the square root, whose gradient at 0 is 0."""
    is_zero = a == 0
    return torch.where(is_zero, 0, torch.sqrt(torch.where(is_zero, 1, a)))


def _where(mask: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.where(mask != 0, a, b)


# Masks are numbers, 0 or 1. A comparison with NaN is 0; minimum, maximum and relu pass a NaN on, as in PyTorch.
_ROWS = [
    # what an element-wise operation of the loop can be: a target implements each of these
    Operation("add", "map", 2, torch.add, "{0} + {1}", "{0} + {1}", 3, core=True),
    Operation("sub", "map", 2, torch.sub, "{0} - {1}", "{0} - {1}", 3, core=True),
    Operation("mul", "map", 2, torch.mul, "{0} * {1}", r"{0} \odot {1}", 4, core=True),
    Operation("div", "map", 2, torch.div, "{0} / {1}", r"\frac{{{0}}}{{{1}}}", 4, core=True),
    Operation("neg", "map", 1, torch.neg, "-{0}", "-{0}", 5, core=True),
    Operation("abs", "map", 1, torch.abs, "|{0}|", r"\left|{0}\right|", core=True),
    Operation("sign", "map", 1, torch.sign, "sign({0})", r"\operatorname{{sign}}({0})", core=True),
    Operation("floor", "map", 1, torch.floor, "floor({0})", r"\lfloor {0} \rfloor", core=True),
    Operation("sqrt", "map", 1, torch.sqrt, "sqrt({0})", r"\sqrt{{{0}}}", core=True),
    Operation("rsqrt", "map", 1, torch.rsqrt, "rsqrt({0})", r"\frac{{1}}{{\sqrt{{{0}}}}}", core=True),
    Operation("exp", "map", 1, torch.exp, "exp({0})", r"\exp({0})", core=True),
    Operation("expm1", "map", 1, torch.expm1, "expm1({0})", r"(\exp({0}) - 1)", core=True),
    Operation("log", "map", 1, torch.log, "log({0})", r"\ln({0})", core=True),
    Operation("log1p", "map", 1, torch.log1p, "log1p({0})", r"\ln(1 + {0})", core=True),
    Operation("sin", "map", 1, torch.sin, "sin({0})", r"\sin({0})", core=True),
    Operation("cos", "map", 1, torch.cos, "cos({0})", r"\cos({0})", core=True),
    Operation("tanh", "map", 1, torch.tanh, "tanh({0})", r"\tanh({0})", core=True),
    Operation("sigmoid", "map", 1, torch.sigmoid, "sigmoid({0})", r"\sigma({0})", core=True),
    Operation("erf", "map", 1, torch.erf, "erf({0})", r"\operatorname{{erf}}({0})", core=True),
    Operation("minimum", "map", 2, torch.minimum, "min({0}, {1})", r"\min({0}, {1})", core=True),
    Operation("maximum", "map", 2, torch.maximum, "max({0}, {1})", r"\max({0}, {1})", core=True),
    Operation("fmod", "map", 2, _tensor(torch.fmod), "fmod({0}, {1})", r"\operatorname{{fmod}}({0}, {1})", core=True),
    Operation("less", "map", 2, _compare(torch.lt), "{0} < {1}", "[{0} < {1}]", 2, core=True),
    Operation("less_equal", "map", 2, _compare(torch.le), "{0} <= {1}", r"[{0} \le {1}]", 2, core=True),
    Operation("equal", "map", 2, _compare(torch.eq), "{0} == {1}", "[{0} = {1}]", 2, core=True),
    Operation("where", "map", 3, _where, "where({0}, {1}, {2})", r"\operatorname{{where}}({0}, {1}, {2})", core=True),
    # element-wise operations with a gradient or a printed form of their own; `lower` rewrites them for the loop
    Operation("relu", "map", 1, torch.relu, "relu({0})", r"\operatorname{{relu}}({0})"),
    Operation("root", "map", 1, _root, "sqrt({0})", r"\sqrt{{{0}}}"),
    Operation("power", "map", 2, torch.pow, "{0} ** {1}", "{{{0}}}^{{{1}}}", 6),
    Operation("at_least", "map", 2, _tensor(torch.clamp_min), "max({0}, {1})", r"\max({0}, {1})"),
    Operation("at_most", "map", 2, _tensor(torch.clamp_max), "min({0}, {1})", r"\min({0}, {1})"),
    Operation("stop", "map", 1, torch.Tensor.detach, "stop({0})", r"\operatorname{{stop}}({0})"),
    # over the features of a row; the result has one feature
    Operation("sum", "reduce", 1, lambda a: a.sum(-1, keepdim=True), "sum({0})", r"\operatorname{{sum}}({0})"),
    Operation("max", "reduce", 1, lambda a: a.amax(-1, keepdim=True), "max({0})", r"\operatorname{{max}}({0})"),
    # with a matrix
    Operation("linear", "product", 2, torch.nn.functional.linear, "{0} @ {1}.T", r"{0} {1}^{{\top}}", 4),
    Operation("matmul", "product", 2, torch.matmul, "{0} @ {1}", "{0} {1}", 4),
    # moves, computes nothing
    Operation("slice", "layout", 1, lambda a, start, stop: a[..., start:stop], "{0}[{data}]", "{{{0}}}_{{{data}}}", 8),
    Operation("cat", "layout", -1, lambda *a: torch.cat(a, -1), "[{all}]", "[{all}]"),
    Operation("block", "layout", 1, lambda a, start, stop: a[start:stop], "{0}[{data}, :]", "{{{0}}}_{{{data}}}", 8),
    Operation("stack", "layout", -1, lambda *a: torch.cat(a, 0), "stack({all})", r"\operatorname{{stack}}({all})"),
    Operation("transpose", "layout", 1, lambda a: a.mT, "{0}.T", r"{0}^{{\top}}", 8),
    # the leaves, and anything PyTorch does with fixed values
    Operation("input", "input", 0, lambda: None, "{data}", "{data}"),
    Operation("constant", "constant", 0, lambda: None, "{data}", "{data}"),
    Operation("call", "call", -1, lambda *a: None, "{data}({all})", r"\operatorname{{{data}}}({all})"),
]

OPERATIONS: dict[str, Operation] = {row.name: row for row in _ROWS}
