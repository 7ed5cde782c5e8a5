"""Activations of PyTorch that symbols pass through, each in terms of the operations of the table."""

from __future__ import annotations

import math
from typing import Any

from everloop.compiler.functions import add, power, sub, where
from everloop.compiler.symbol import Symbol, elementwise, known


@known("leaky_relu")
def leaky_relu(a: Symbol, negative_slope: float = 0.01, inplace: bool = False) -> Symbol:
    return where(elementwise("less", 0.0, a), a, elementwise("mul", a, negative_slope))


@known("prelu")
def prelu(a: Symbol, weight: Any) -> Symbol:
    return where(elementwise("less", 0.0, a), a, elementwise("mul", weight, a))


def _below_zero(a: Symbol, alpha: float, inside: Symbol) -> Symbol:
    """a, and alpha (exp(inside) - 1) where a is not above zero."""
    return where(elementwise("less_equal", a, 0.0), elementwise("mul", alpha, elementwise("expm1", inside)), a)


@known("elu")
def elu(a: Symbol, alpha: float = 1.0, inplace: bool = False) -> Symbol:
    return _below_zero(a, alpha, elementwise("at_most", a, 0.0))


@known("celu")
def celu(a: Symbol, alpha: float = 1.0, inplace: bool = False) -> Symbol:
    return _below_zero(a, alpha, elementwise("div", elementwise("at_most", a, 0.0), alpha))


@known("selu")
def selu(a: Symbol, inplace: bool = False) -> Symbol:
    return elementwise("mul", 1.0507009873554804934193349852946, elu(a, 1.6732632423543772848170429916717))


@known("gelu")
def gelu(a: Symbol, approximate: str = "none") -> Symbol:
    half = elementwise("mul", 0.5, a)
    if approximate == "tanh":
        cubed = elementwise("mul", 0.044715, power(a, 3))
        inside = elementwise("tanh", elementwise("mul", math.sqrt(2 / math.pi), add(a, cubed)))
    else:
        inside = elementwise("erf", elementwise("mul", math.sqrt(0.5), a))
    return elementwise("mul", half, add(inside, 1.0))


@known("softplus")
def softplus(a: Symbol, beta: float = 1.0, threshold: float = 20.0) -> Symbol:
    scaled = a if beta == 1 else elementwise("mul", a, beta)
    is_large = elementwise("less", threshold, scaled)
    soft = elementwise("log1p", elementwise("exp", where(is_large, threshold, scaled)))
    return where(is_large, a, soft if beta == 1 else elementwise("div", soft, beta))


@known("hardtanh")
def hardtanh(a: Symbol, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Symbol:
    limited = elementwise("stop", elementwise("at_most", elementwise("at_least", a, min_val), max_val))
    above = where(elementwise("less", min_val, a), a, limited)
    return where(elementwise("less", a, max_val), above, limited)  # a border and NaN have no gradient


known("relu6")(lambda a, inplace=False: hardtanh(a, 0.0, 6.0))


@known("hardsigmoid")
def hard_sigmoid(a: Symbol, inplace: bool = False) -> Symbol:
    return elementwise("div", hardtanh(add(a, 3.0), 0.0, 6.0), 6.0)


known("hardswish")(lambda a, inplace=False: elementwise("mul", a, hard_sigmoid(a)))
known("silu")(lambda a, inplace=False: elementwise("mul", a, elementwise("sigmoid", a)))
known("mish")(lambda a, inplace=False: elementwise("mul", a, elementwise("tanh", softplus(a))))
known("softsign")(lambda a: elementwise("div", a, add(elementwise("abs", a), 1.0)))
known("tanhshrink")(lambda a: sub(a, elementwise("tanh", a)))


@known("logsigmoid", "log_sigmoid")
def log_sigmoid(a: Symbol) -> Symbol:
    tail = elementwise("log1p", elementwise("exp", elementwise("neg", elementwise("abs", a))))
    return sub(elementwise("minimum", a, 0.0), tail)


@known("threshold", "_threshold")
def threshold(a: Symbol, threshold: float, value: float, inplace: bool = False) -> Symbol:
    return where(elementwise("less_equal", a, threshold), value, a)


@known("hardshrink")
def hard_shrink(a: Symbol, lambd: float = 0.5) -> Symbol:
    return where(elementwise("less_equal", elementwise("abs", a), lambd), 0.0, a)


@known("softshrink")
def soft_shrink(a: Symbol, lambd: float = 0.5) -> Symbol:
    shrunk = sub(a, elementwise("mul", elementwise("sign", a), lambd))
    return where(elementwise("less_equal", elementwise("abs", a), lambd), 0.0, shrunk)
