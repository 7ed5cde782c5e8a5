"""The table of operations: one row an operation, read by every pass and by every target.

An element-wise operation that is a formula of others needs a row here and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional as F

from everloop.compiler import backwards, derivatives, formulas, intervals
from everloop.compiler.derivatives import Gradient
from everloop.compiler.expression import Expression, of
from everloop.compiler.meanings import comparing, floor_divided, joined, largest, of_tensors, root, summed, with_slope
from everloop.compiler.view import View

OpKind = Literal["input", "constant", "map", "reduce", "product", "layout", "call"]
# How a function of PyTorch gives integers, which the loop holds as floats: see `dtypes.bound`.
Integers = Literal["", "move", "negation", "choice", "product", "square", "sum", "total", "cast", "fill"]

TRANSCENDENTAL = 300  # the cost of recomputing one


@dataclass(frozen=True)
class Operation:
    """One row of the table.

    kind:      input, constant, map (element by element), reduce (over features), product (with a matrix), layout
               (moves features, computes nothing), call (any PyTorch function of fixed values, run before the loop).
    arity:     how many arguments; -1 for any number.
    meaning:   the same on tensors, of the arguments and the attributes.
    text, latex: how an equation shows it; {0}, {1}, … are the arguments, {all} all of them, {data} the attributes.
    binding:   how tightly the text binds (a looser argument gets parentheses); 9 for a function call.
    latex_binding: the same of LaTeX, where it differs.
    commutes:  whether the order of equal neighbours does not matter, so that they need no parentheses.
    gradient:  of a map or reduce: the gradients of the arguments, from that of the result, the result and the
               arguments; None for those that get none.
    lowering:  of a map that no target has: the same made of others.
    cost:      of computing one feature once more in the gradient loop instead of saving it, where saving costs 1000;
               0 is nearly free. Products and sums over features are never recomputed.
    is_light:  whether it is computed twice rather than once for more features than one reader needs.
    keeps_result: whether PyTorch's own gradient may read the result, whose memory is not free to be overwritten then.
    functions: the names of the functions, methods and operators of PyTorch that are this operation.
    integers:  how integers, which the loop holds as floats, come out of it.
    interval: of a map or layout: where its result lies, given the intervals of its arguments; None: anywhere.
    accumulates: whether it hands the rounding error of an argument on undiminished, so that a state that goes round by
               way of it collects what every step rounds.
    """

    name: str
    kind: OpKind
    arity: int
    meaning: Callable[..., Any]
    text: str
    latex: str
    binding: int = 9
    latex_binding: int | None = None
    commutes: bool = False
    gradient: Gradient | None = None
    lowering: Callable[..., Expression] | None = None
    cost: int = 0
    is_light: bool = False
    keeps_result: bool = True
    functions: tuple[str, ...] = ()
    integers: Integers = ""
    interval: intervals.Rule | None = None
    accumulates: bool = False

    @property
    def core(self) -> bool:
        """Whether a Map of the Loop may contain it: every target implements it."""
        return self.kind == "map" and self.lowering is None


def operation_of(function: str) -> Operation | None:
    """Return the operation that a function of PyTorch is, by its name."""
    return next((row for row in OPERATIONS.values() if function in row.functions), None)


# Operations in formulas
absolute, cos, cosh, equal, exp = of("abs"), of("cos"), of("cosh"), of("equal"), of("exp")
floor_divide, less, less_equal, log = of("floor_divide"), of("less"), of("less_equal"), of("log")
maximum, minimum, power, rsqrt, sign = of("maximum"), of("minimum"), of("power"), of("rsqrt"), of("sign")
sin, sinh, sqrt, trunc, where = of("sin"), of("sinh"), of("sqrt"), of("trunc"), of("where")


# Masks are numbers, 0 or 1. A comparison with NaN is 0; minimum, maximum and relu pass a NaN on, as in PyTorch.
_ROWS = [
    # what an element-wise operation of the loop can be: a target implements each of these
    Operation(
        "add", "map", 2, torch.add, "{0} + {1}", "{0} + {1}", 3, commutes=True,
        gradient=lambda g, y, a, b: (g, g), is_light=True, keeps_result=False, accumulates=True, interval=intervals.add,
    ),
    Operation(
        "sub", "map", 2, torch.sub, "{0} - {1}", "{0} - {1}", 3,
        gradient=lambda g, y, a, b: (g, -g), is_light=True, keeps_result=False, accumulates=True,
        interval=intervals.sub,
    ),
    Operation(
        "mul", "map", 2, torch.mul, "{0} * {1}", r"{0} \odot {1}", 4, commutes=True,
        gradient=lambda g, y, a, b: (g * b, g * a), is_light=True,
        functions=("mul", "multiply", "rmul"), integers="product", accumulates=True, interval=intervals.mul,
    ),
    Operation(
        "div", "map", 2, torch.div, "{0} / {1}", r"\frac{{{0}}}{{{1}}}", 4, latex_binding=9,
        gradient=lambda g, y, a, b: (g / b, -(g * y / b)), accumulates=True, interval=intervals.div,
    ),
    Operation(
        "neg", "map", 1, torch.neg, "-{0}", "-{0}", 5,
        gradient=lambda g, y, a: -g, is_light=True, keeps_result=False,
        functions=("neg", "negative"), integers="negation", accumulates=True, interval=intervals.neg,
    ),
    Operation(
        "abs", "map", 1, torch.abs, "|{0}|", r"\left|{0}\right|",
        gradient=lambda g, y, a: g * sign(a), functions=("abs", "absolute"), integers="move", accumulates=True,
        interval=intervals.absolute,
    ),
    Operation(
        "sign", "map", 1, torch.sign, "sign({0})", r"\operatorname{{sign}}({0})",
        gradient=derivatives.none, functions=("sign", "sgn"), integers="move",
        interval=intervals.rising(intervals.sign),
    ),
    Operation(
        "floor", "map", 1, torch.floor, "floor({0})", r"\lfloor {0} \rfloor",
        gradient=derivatives.none, functions=("floor",), integers="move", interval=intervals.rising(intervals.floor),
    ),
    Operation(
        "trunc", "map", 1, torch.trunc, "trunc({0})", r"\operatorname{{trunc}}({0})",
        gradient=derivatives.none, functions=("trunc", "fix"), integers="move",
        interval=intervals.rising(intervals.trunc),
    ),
    Operation(  # to the even one where two are as near
        "round", "map", 1, torch.round, "round({0})", r"\operatorname{{round}}({0})",
        gradient=derivatives.none, interval=intervals.rising(intervals.nearest),
    ),
    Operation(
        "sqrt", "map", 1, torch.sqrt, "sqrt({0})", r"\sqrt{{{0}}}",
        gradient=lambda g, y, a: g * 0.5 / y, functions=("sqrt",), interval=intervals.rising(math.sqrt, 0.0),
    ),
    Operation(
        "rsqrt", "map", 1, torch.rsqrt, "rsqrt({0})", r"\frac{{1}}{{\sqrt{{{0}}}}}",
        gradient=lambda g, y, a: (g * -0.5) * (y * (y * y)), functions=("rsqrt",), interval=intervals.rsqrt,
    ),
    Operation(
        "exp", "map", 1, torch.exp, "exp({0})", r"\exp({0})",
        gradient=lambda g, y, a: g * y, cost=TRANSCENDENTAL, functions=("exp",), interval=intervals.rising(math.exp),
    ),
    Operation(
        "expm1", "map", 1, torch.expm1, "expm1({0})", r"(\exp({0}) - 1)",
        gradient=lambda g, y, a: g * (y + 1.0), cost=TRANSCENDENTAL, functions=("expm1",),
        interval=intervals.rising(math.expm1),
    ),
    Operation(
        "log", "map", 1, torch.log, "log({0})", r"\ln({0})",
        gradient=lambda g, y, a: g / a, cost=TRANSCENDENTAL, functions=("log",),
        interval=intervals.rising(math.log, 0.0),
    ),
    Operation(
        "log1p", "map", 1, torch.log1p, "log1p({0})", r"\ln(1 + {0})",
        gradient=lambda g, y, a: g / (a + 1.0), cost=TRANSCENDENTAL, functions=("log1p",),
        interval=intervals.rising(math.log1p, -1.0),
    ),
    Operation(
        "sin", "map", 1, torch.sin, "sin({0})", r"\sin({0})",
        gradient=lambda g, y, a: g * cos(a), cost=TRANSCENDENTAL, functions=("sin",), interval=intervals.sine,
    ),
    Operation(
        "cos", "map", 1, torch.cos, "cos({0})", r"\cos({0})",
        gradient=lambda g, y, a: -(g * sin(a)), cost=TRANSCENDENTAL, functions=("cos",), interval=intervals.sine,
    ),
    Operation(
        "tanh", "map", 1, torch.tanh, "tanh({0})", r"\tanh({0})",
        gradient=lambda g, y, a: g * (1.0 - y * y), cost=TRANSCENDENTAL, functions=("tanh",),
        interval=intervals.rising(math.tanh),
    ),
    Operation(
        "sigmoid", "map", 1, torch.sigmoid, "sigmoid({0})", r"\sigma({0})",
        gradient=lambda g, y, a: g * (y * (1.0 - y)), cost=TRANSCENDENTAL,
        functions=("sigmoid", "expit", "special_expit"), interval=intervals.rising(intervals.sigmoid),
    ),
    Operation(
        "erf", "map", 1, torch.erf, "erf({0})", r"\operatorname{{erf}}({0})",
        gradient=lambda g, y, a: g * (2 / math.sqrt(math.pi) * exp(-(a * a))), cost=TRANSCENDENTAL,
        functions=("erf", "special_erf"), interval=intervals.rising(math.erf),
    ),
    Operation(
        "log2", "map", 1, torch.log2, "log2({0})", r"\log_2({0})",
        gradient=lambda g, y, a: g / (a * math.log(2)), cost=TRANSCENDENTAL, functions=("log2",),
        interval=intervals.rising(math.log2, 0.0),
    ),
    Operation(
        "log10", "map", 1, torch.log10, "log10({0})", r"\log_{{10}}({0})",
        gradient=lambda g, y, a: g / (a * math.log(10)), cost=TRANSCENDENTAL, functions=("log10",),
        interval=intervals.rising(math.log10, 0.0),
    ),
    Operation(
        "exp2", "map", 1, torch.exp2, "exp2({0})", r"2^{{{0}}}",
        gradient=lambda g, y, a: g * y * math.log(2), cost=TRANSCENDENTAL, functions=("exp2", "special_exp2"),
        interval=intervals.rising(lambda x: 2.0**x),
    ),
    Operation(
        "tan", "map", 1, torch.tan, "tan({0})", r"\tan({0})",
        gradient=lambda g, y, a: g * (y * y + 1.0), lowering=formulas.tan, cost=TRANSCENDENTAL,
        functions=("tan",),
        interval=intervals.monotone(math.tan, -1.57, 1.57),
    ),
    Operation(
        "asin", "map", 1, torch.asin, "asin({0})", r"\arcsin({0})",
        gradient=lambda g, y, a: g * rsqrt((1.0 - a) * (a + 1.0)), lowering=formulas.asin, cost=TRANSCENDENTAL,
        functions=("asin", "arcsin"),
        interval=intervals.monotone(math.asin, -1.0, 1.0),
    ),
    Operation(
        "acos", "map", 1, torch.acos, "acos({0})", r"\arccos({0})",
        gradient=lambda g, y, a: -(g * rsqrt((1.0 - a) * (a + 1.0))), lowering=formulas.acos, cost=TRANSCENDENTAL,
        functions=("acos", "arccos"),
        interval=intervals.monotone(math.acos, -1.0, 1.0),
    ),
    Operation(
        "atan", "map", 1, torch.atan, "atan({0})", r"\arctan({0})",
        gradient=lambda g, y, a: g / (a * a + 1.0), cost=TRANSCENDENTAL, functions=("atan", "arctan"),
        interval=intervals.rising(math.atan),
    ),
    Operation(
        "atan2", "map", 2, of_tensors(torch.atan2), "atan2({0}, {1})", r"\operatorname{{atan2}}({0}, {1})",
        gradient=derivatives.of_angle, cost=TRANSCENDENTAL, functions=("atan2", "arctan2"),
        interval=intervals.angle,
    ),
    Operation(
        "sinh", "map", 1, torch.sinh, "sinh({0})", r"\sinh({0})",
        gradient=lambda g, y, a: g * cosh(a), lowering=formulas.sinh, cost=TRANSCENDENTAL,
        functions=("sinh",),
        interval=intervals.rising(math.sinh),
    ),
    Operation(
        "cosh", "map", 1, torch.cosh, "cosh({0})", r"\cosh({0})",
        gradient=lambda g, y, a: g * sinh(a), lowering=formulas.cosh, cost=TRANSCENDENTAL,
        functions=("cosh",),
        interval=intervals.hyperbolic_cosine,
    ),
    Operation(
        "asinh", "map", 1, torch.asinh, "asinh({0})", r"\operatorname{{arsinh}}({0})",
        gradient=lambda g, y, a: g * rsqrt(a * a + 1.0), lowering=formulas.asinh, cost=TRANSCENDENTAL,
        functions=("asinh", "arcsinh"),
        interval=intervals.rising(math.asinh),
    ),
    Operation(
        "acosh", "map", 1, torch.acosh, "acosh({0})", r"\operatorname{{arcosh}}({0})",
        gradient=derivatives.of_acosh, lowering=formulas.acosh, cost=TRANSCENDENTAL,
        functions=("acosh", "arccosh"),
        interval=intervals.rising(math.acosh, 1.0),
    ),
    Operation(
        "atanh", "map", 1, torch.atanh, "atanh({0})", r"\operatorname{{artanh}}({0})",
        gradient=lambda g, y, a: g / ((1.0 - a) * (a + 1.0)), lowering=formulas.atanh, cost=TRANSCENDENTAL,
        functions=("atanh", "arctanh"),
        interval=intervals.monotone(math.atanh, -0.999999, 0.999999),
    ),
    Operation(
        "erfc", "map", 1, torch.erfc, "erfc({0})", r"\operatorname{{erfc}}({0})",
        gradient=lambda g, y, a: -(g * (2 / math.sqrt(math.pi) * exp(-(a * a)))), cost=TRANSCENDENTAL,
        functions=("erfc", "special_erfc"), interval=intervals.monotone(math.erfc),
    ),
    Operation(
        "minimum", "map", 2, torch.minimum, "min({0}, {1})", r"\min({0}, {1})",
        gradient=derivatives.of_extreme(lambda a, b: less(b, a)), functions=("minimum",), integers="choice",
        accumulates=True, interval=intervals.minimum,
    ),
    Operation(
        "maximum", "map", 2, torch.maximum, "max({0}, {1})", r"\max({0}, {1})",
        gradient=derivatives.of_extreme(less), functions=("maximum",), integers="choice", accumulates=True,
        interval=intervals.maximum,
    ),
    Operation(
        "fmod", "map", 2, of_tensors(torch.fmod), "fmod({0}, {1})", r"\operatorname{{fmod}}({0}, {1})",
        gradient=lambda g, y, a, b: (g, -(g * trunc(a / b))), functions=("fmod",), interval=intervals.fmod,
    ),
    Operation(
        "less", "map", 2, comparing(torch.lt), "{0} < {1}", "[{0} < {1}]", 2, gradient=derivatives.none,
        interval=intervals.truth,
    ),
    Operation(
        "less_equal", "map", 2, comparing(torch.le), "{0} <= {1}", r"[{0} \le {1}]", 2, gradient=derivatives.none,
        interval=intervals.truth,
    ),
    Operation(
        "equal", "map", 2, comparing(torch.eq), "{0} == {1}", "[{0} = {1}]", 2, gradient=derivatives.none,
        interval=intervals.truth,
    ),
    Operation(
        "cast", "map", 1, torch.Tensor.to, "{data}({0})", r"\operatorname{{{data}}}({0})",
        gradient=derivatives.none, accumulates=True, interval=intervals.same,
    ),
    Operation(
        "where", "map", 3, lambda mask, a, b: torch.where(mask != 0, a, b),
        "where({0}, {1}, {2})", r"\operatorname{{where}}({0}, {1}, {2})",
        gradient=lambda g, y, mask, a, b: (None, where(mask, g, 0.0), where(mask, 0.0, g)), accumulates=True,
        interval=intervals.where,
    ),
    # element-wise operations with a gradient or a printed form of their own, made of others in the loop
    Operation(
        "relu", "map", 1, torch.relu, "relu({0})", r"\operatorname{{relu}}({0})",
        gradient=lambda g, y, a: where(less_equal(y, 0.0), 0.0, g), lowering=lambda a: maximum(a, 0.0),
        accumulates=True, interval=intervals.rising(lambda x: max(x, 0.0)),
    ),
    Operation(  # the length of a row, which has no derivative where it is 0; PyTorch takes 0
        "root", "map", 1, root, "sqrt({0})", r"\sqrt{{{0}}}",
        gradient=lambda g, y, a: where(equal(y, 0.0), 0.0, g * 0.5 / y), lowering=sqrt,
        interval=intervals.rising(math.sqrt, 0.0),
    ),
    Operation(
        "power", "map", 2, torch.pow, "{0} ** {1}", "{{{0}}}^{{{1}}}", 6,
        gradient=derivatives.of_power, lowering=formulas.power, cost=TRANSCENDENTAL, interval=intervals.power,
    ),
    Operation(
        "logit", "map", 1, torch.logit, "logit({0})", r"\operatorname{{logit}}({0})",
        gradient=derivatives.of_logit, lowering=lambda a: log(a / (1.0 - a)), cost=TRANSCENDENTAL,
        interval=intervals.monotone(intervals.logit, 0.0, 1.0),
    ),
    Operation(
        "floor_divide", "map", 2, floor_divided, "{0} // {1}", r"\lfloor {0} / {1} \rfloor", 4,
        gradient=derivatives.none, lowering=formulas.floor_divide, functions=("floor_divide", "floordiv"),
        interval=intervals.floor_divide,
    ),
    Operation(
        "remainder", "map", 2, of_tensors(torch.remainder), "{0} % {1}", r"{0} \bmod {1}", 4,
        gradient=lambda g, y, a, b: (g, -(g * floor_divide(a, b))), lowering=formulas.remainder,
        functions=("remainder", "mod"), interval=intervals.remainder,
    ),
    Operation(
        "at_least", "map", 2, of_tensors(torch.clamp_min), "max({0}, {1})", r"\max({0}, {1})",
        gradient=lambda g, y, a, limit: (where(less_equal(limit, a), g, 0.0), None), lowering=maximum, accumulates=True,
        interval=intervals.maximum,
    ),
    Operation(
        "at_most", "map", 2, of_tensors(torch.clamp_max), "min({0}, {1})", r"\min({0}, {1})",
        gradient=lambda g, y, a, limit: (where(less_equal(a, limit), g, 0.0), None), lowering=minimum, accumulates=True,
        interval=intervals.minimum,
    ),
    Operation(
        "stop", "map", 1, torch.Tensor.detach, "stop({0})", r"\operatorname{{stop}}({0})",
        gradient=derivatives.none, lowering=lambda a: a, functions=("detach",), integers="move", accumulates=True,
        interval=intervals.same,
    ),
    Operation(  # a value as it is, and to the gradient the slope of an argument
        "surrogate", "map", 3, with_slope, "surrogate({0}, {1}, {2})", r"\operatorname{{surrogate}}({0}, {1}, {2})",
        gradient=lambda g, y, value, argument, slope: (g, g * slope, None), lowering=lambda value, *_: value,
        accumulates=True, interval=lambda value, *_: value,
    ),
    Operation(  # a value as it is, and to the gradient what a text says (`backwards`)
        "replaced", "map", -1, lambda *args: backwards.with_gradient(OPERATIONS, *args), "replaced({all})",
        r"\operatorname{{replaced}}({all})", gradient=derivatives.none, lowering=lambda value, *_: value,
        accumulates=True, interval=lambda value, *_: value,
    ),
    # over the features of a row; the result has one feature
    Operation(
        "sum", "reduce", 1, summed, "sum({0}{data})", r"\operatorname{{sum}}({0}{data})",
        gradient=lambda g, y, a: g,
    ),
    Operation(
        "max", "reduce", 1, largest, "max({0}{data})", r"\operatorname{{max}}({0}{data})",
        gradient=derivatives.of_largest, interval=intervals.same,
    ),
    # with a matrix
    Operation("linear", "product", 2, F.linear, "{0} @ {1}.T", r"{0} {1}^{{\top}}", 4, keeps_result=False),
    Operation("matmul", "product", 2, torch.matmul, "{0} @ {1}", "{0} {1}", 4, keeps_result=False),
    # moves, computes nothing
    Operation(
        "slice", "layout", 1, lambda a, start, stop: a.narrow(-1, start, stop - start),
        "{0}[{data}]", "{{{0}}}_{{{data}}}", 8, accumulates=True, interval=intervals.same,
    ),
    Operation(
        "view", "layout", 1, lambda a, *numbers: a[..., torch.from_numpy(View.of(numbers).index.copy())],
        "{0}[{data}]", r"{{{0}}}_{{[{data}]}}", 8, accumulates=True, interval=intervals.same,
    ),
    Operation(
        "cat", "layout", -1, joined, "[{all}]", "[{all}]", keeps_result=False, accumulates=True,
        interval=intervals.joined,
    ),
    Operation(
        "block", "layout", 1, lambda a, start, stop: a.narrow(0, start, stop - start),
        "{0}[{data}, :]", "{{{0}}}_{{{data}}}", 8, interval=intervals.same,
    ),
    Operation(
        "stack", "layout", -1, lambda *a: torch.cat(a, 0), "stack({all})", r"\operatorname{{stack}}({all})",
        interval=intervals.joined,
    ),
    Operation("transpose", "layout", 1, lambda a: a.mT, "{0}.T", r"{0}^{{\top}}", 8, interval=intervals.same),
    # the leaves, and anything PyTorch does with fixed values
    Operation("input", "input", 0, lambda: None, "{data}", "{data}"),
    Operation("constant", "constant", 0, lambda: None, "{data}", "{data}"),
    Operation("call", "call", -1, lambda *a: None, "{data}({all})", r"\operatorname{{{data}}}({all})"),
]  # fmt: skip

OPERATIONS: dict[str, Operation] = {row.name: row for row in _ROWS}
