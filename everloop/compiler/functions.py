"""What PyTorch's functions do to symbols: each in terms of the operations of the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from everloop.compiler.dtypes import converted
from everloop.compiler.ir import Type
from everloop.compiler.locations import unsupported
from everloop.compiler.symbol import BatchSize, Number, Symbol, elementwise, known, symbol_of


def _is_mask(a: Any) -> bool:
    return a.is_mask if isinstance(a, Symbol) else isinstance(a, bool) or getattr(a, "dtype", None) == torch.bool


def _times(a: Any, b: Any) -> Any:
    return elementwise("mul", a, b) if isinstance(a, Symbol) or isinstance(b, Symbol) else a * b


def _is_one(factor: Any) -> bool:
    return isinstance(factor, Number) and factor == 1


@known("add", "radd", integers="sum")
def add(a: Any, b: Any, *, alpha: float = 1) -> Symbol:
    if _is_mask(a) and _is_mask(b):
        if not _is_one(alpha):
            raise unsupported(f"the sum of two truth values with alpha={alpha}")
        return elementwise("maximum", a, b)  # as PyTorch, which takes + of truth values for |
    return elementwise("add", a, b if _is_one(alpha) else _times(b, alpha))


@known("sub", "subtract", integers="sum")
def sub(a: Any, b: Any, *, alpha: float = 1) -> Symbol:
    if _is_mask(a) or _is_mask(b):
        raise unsupported("subtraction with a truth value, which PyTorch refuses; write ~")
    return elementwise("sub", a, b if _is_one(alpha) else _times(b, alpha))


known("rsub", integers="sum")(lambda a, b, *, alpha=1: sub(b, a, alpha=alpha))
known("rdiv", "rtruediv")(lambda a, b: elementwise("div", b, a))
known("reciprocal")(lambda a: elementwise("div", 1.0, a))
known("square", integers="square")(lambda a: elementwise("mul", a, a))
known("pos", "positive", integers="move")(lambda a: a)
known("contiguous", integers="move", is_view=True)(lambda a, memory_format=None: a.like(a.value, a.axes))


@known("clone", integers="move")
def clone(a: Symbol, *, memory_format: Any = None) -> Symbol:
    return a.like(a.value, a.axes)


known("addcdiv")(lambda a, b, c, *, value=1: add(a, elementwise("div", _times(b, value), c)))
known("relu", integers="move")(lambda a, inplace=False: elementwise("relu", a))
known("addcmul")(lambda a, b, c, *, value=1: add(a, _times(b, c), alpha=value))


@known("lerp")
def lerp(a: Any, b: Any, w: Any) -> Symbol:
    """From the nearer end, as PyTorch does: the other way rounds otherwise and is NaN elsewhere."""
    difference: Symbol = sub(b, a)
    low: Symbol = add(a, elementwise("mul", w, difference))
    if isinstance(w, Number) and abs(w) < 0.5:
        return low
    high: Symbol = sub(b, elementwise("mul", difference, 1 - w if isinstance(w, Number) else sub(1.0, w)))
    return high if isinstance(w, Number) else where(elementwise("less", elementwise("abs", w), 0.5), low, high)


@known("div", "divide", "true_divide", "truediv")
def div(a: Any, b: Any, *, rounding_mode: str | None = None) -> Symbol:
    if rounding_mode == "floor":
        return elementwise("floor_divide", a, b)
    result = elementwise("div", a, b)
    return elementwise("trunc", result) if rounding_mode == "trunc" else result


known("rmod")(lambda a, b: elementwise("remainder", b, a))
known("rfloordiv")(lambda a, b: elementwise("floor_divide", b, a))


@known("pow", "power")
def power(a: Any, b: Any) -> Symbol:
    result: Symbol
    if isinstance(b, Number):
        if b == 0.5:
            return elementwise("sqrt", a)
        if b == -0.5:
            return elementwise("rsqrt", a)
        if float(b).is_integer() and 1 <= abs(b) <= 8:
            a = a.like(a.value, a.axes) if b > 0 else elementwise("div", 1.0, a)
            result = a
            for _ in range(int(abs(b)) - 1):
                result = elementwise("mul", result, a)
            return result
    return elementwise("power", a, b)


known("rpow")(lambda a, b: power(b, a))


@known("logit", "special_logit")
def logit(a: Symbol, eps: float | None = None) -> Symbol:
    inside = a if eps is None else clamp(a, eps, 1 - eps)
    return elementwise("logit", inside)


@known("logaddexp")
def log_add_exp(a: Any, b: Any) -> Symbol:
    """From the larger of both, so that no exponential overflows; two equal infinities stay one."""
    distance = where(elementwise("equal", a, b), 0.0, elementwise("abs", sub(a, b)))
    return add(elementwise("maximum", a, b), elementwise("log1p", elementwise("exp", elementwise("neg", distance))))


@known("round", integers="move")
def round_(a: Symbol, *, decimals: int = 0) -> Symbol:
    """To so many decimals, before the point where that is less than 0, computed as PyTorch does."""
    if not decimals or not a.dtype.is_floating_point:
        return elementwise("round", a)
    power_of_ten = converted(10.0 ** abs(decimals), a.dtype)
    there, back = ("mul", "div") if decimals > 0 else ("div", "mul")
    return elementwise(back, elementwise("round", elementwise(there, a, power_of_ten)), power_of_ten)


known("frac")(lambda a: sub(a, elementwise("trunc", a)))
known("ceil", integers="move")(lambda a: elementwise("neg", elementwise("floor", elementwise("neg", a))))

# comparisons and masks: numbers 0 and 1
known("lt", "less")(lambda a, b: elementwise("less", a, b))
known("le", "less_equal")(lambda a, b: elementwise("less_equal", a, b))
known("gt", "greater")(lambda a, b: elementwise("less", b, a))
known("ge", "greater_equal")(lambda a, b: elementwise("less_equal", b, a))
known("eq")(lambda a, b: elementwise("equal", a, b))
known("ne", "not_equal")(lambda a, b: elementwise("sub", 1.0, elementwise("equal", a, b)))
known("isnan")(lambda a: elementwise("sub", 1.0, elementwise("equal", a, a)))
known("isinf")(lambda a: elementwise("equal", elementwise("abs", a), math.inf))
known("isfinite")(lambda a: elementwise("less", elementwise("abs", a), math.inf))


def _mask(a: Any) -> Any:
    if isinstance(a, Symbol) and not a.is_mask:
        raise unsupported("a logical operation on numbers; compare them first")
    return a


known("logical_not", "invert", "bitwise_not")(lambda a: elementwise("sub", 1.0, _mask(a)))
known("logical_and", "and", "bitwise_and", "rand")(lambda a, b: elementwise("mul", _mask(a), _mask(b)))
known("logical_or", "or", "bitwise_or", "ror")(lambda a, b: elementwise("maximum", _mask(a), _mask(b)))
known("logical_xor", "xor", "bitwise_xor")(lambda a, b: elementwise("abs", elementwise("sub", _mask(a), _mask(b))))


def where(mask: Any, a: Any, b: Any) -> Symbol:
    return elementwise("where", mask, a, b)


known("where", integers="choice")(lambda mask, a, b: where(_mask(mask), a, b))


@known("masked_fill", integers="choice")
def masked_fill(a: Symbol, mask: Any, value: Any) -> Symbol:
    return where(_mask(mask), converted(value, a.dtype) if isinstance(value, Number) else value, a)


@known("clamp", "clip", integers="choice")
def clamp(a: Symbol, min: Any = None, max: Any = None) -> Symbol:  # noqa: A002 - torch's names
    if isinstance(min, Number | None) and isinstance(max, Number | None):
        a = a if min is None else elementwise("at_least", a, min)
        return a if max is None else elementwise("at_most", a, max)
    above = a if min is None else _nearer(a, min, elementwise("less_equal", min, a), elementwise("less", a, min))
    if max is None:
        return above
    inside = _nearer(above, max, elementwise("less_equal", above, max), elementwise("less", max, above))
    if min is None:
        return inside
    low, high = (symbol_of(limit, a) for limit in (min, max))
    met = where(elementwise("equal", a, high), a, elementwise("stop", inside))
    met = where(elementwise("less", high, a), high, met)
    crossed = where(elementwise("equal", a, a), high, elementwise("stop", a))
    return where(elementwise("equal", low, high), met, where(elementwise("less", high, low), crossed, inside))


def _nearer(a: Symbol, limit: Any, is_within: Symbol, is_beyond: Symbol) -> Symbol:
    """a or its limit; where one is NaN, so is the result, which has no gradient then."""
    return where(is_within, a, where(is_beyond, limit, elementwise("stop", add(a, limit))))


known("clamp_min", integers="choice")(lambda a, min: clamp(a, min=min))  # noqa: A006
known("clamp_max", integers="choice")(lambda a, max: clamp(a, max=max))  # noqa: A006


def _both(a: Any, b: Any) -> tuple[Symbol, Symbol]:
    like = a if isinstance(a, Symbol) else b
    return symbol_of(a, like), symbol_of(b, like)


@known("fmax", integers="choice")
def fmax(a: Any, b: Any) -> Symbol:
    """The larger, the first where they are equal, the other where one is NaN."""
    a, b = _both(a, b)
    return where(elementwise("less_equal", b, a), a, where(elementwise("equal", b, b), b, a))


@known("fmin", integers="choice")
def fmin(a: Any, b: Any) -> Symbol:
    a, b = _both(a, b)
    return where(elementwise("less_equal", a, b), a, where(elementwise("equal", b, b), b, a))


@known("nan_to_num")
def nan_to_num(a: Symbol, nan: float | None = None, posinf: float | None = None, neginf: float | None = None) -> Symbol:
    if not a.dtype.is_floating_point:
        return a
    limits = torch.finfo(a.dtype)
    above = where(elementwise("equal", a, math.inf), limits.max if posinf is None else posinf, a)
    inside = where(elementwise("equal", a, -math.inf), limits.min if neginf is None else neginf, above)
    return where(elementwise("equal", a, a), inside, 0.0 if nan is None else nan)


# types and new values: what they are made of; the type comes from PyTorch, with that the number (symbol.py)
def _cast(a: Symbol, *args: Any, **kwargs: Any) -> Symbol:
    return a.like(a.value, a.axes)


known("to", "type", "type_as", "float", "double", integers="cast", is_view=True)(_cast)
known("bool", "int", "long", "short", integers="cast", is_view=True)(_cast)


def _filled(a: Symbol, number: float, shape: Any = None) -> Symbol:
    shape = tuple(a.shape if shape is None else shape)
    rows = any(isinstance(n, BatchSize) for n in shape)
    if rows and not isinstance(shape[0], BatchSize):
        raise unsupported(f"a tensor of shape {shape}")
    if not rows:
        return a.like(a.builder.constant(number, Type(shape or (1,))))
    return a.like(a.builder.constant(number, Type((math.prod(shape[1:]),), rows=True)), shape[1:])


def _sizes(sizes: tuple[Any, ...]) -> Any:
    return sizes[0] if len(sizes) == 1 and isinstance(sizes[0], Sequence) else sizes


known("zeros_like", "empty_like", integers="fill")(lambda a, **_: _filled(a, 0.0))
known("ones_like", integers="fill")(lambda a, **_: _filled(a, 1.0))
known("full_like", integers="fill")(lambda a, fill_value, **_: _filled(a, fill_value))
known("new_zeros", "new_empty", integers="fill")(lambda a, *size, **_: _filled(a, 0.0, _sizes(size)))
known("new_ones", integers="fill")(lambda a, *size, **_: _filled(a, 1.0, _sizes(size)))
known("new_full", integers="fill")(lambda a, size, fill_value, **_: _filled(a, fill_value, size))
