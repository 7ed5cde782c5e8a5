"""Intervals: between which numbers a value lies, and how that passes through the operations of the table.

All is in exact arithmetic: rounding may put a number a last digit outside. An interval is of numbers: what is none (the
sine of infinity) is in no interval, and what is made of it is none, or what a comparison with it chooses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """All numbers from `low` to `high`."""

    low: float
    high: float

    @property
    def is_bounded(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def size(self) -> float:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))

    def holds(self, other: Interval) -> bool:
        """Whether all of another interval is in this one."""
        return self.low <= other.low and other.high <= self.high

    def joined(self, other: Interval) -> Interval:
        """Return the smallest interval with both."""
        return Interval(min(self.low, other.low), max(self.high, other.high))

    def within(self, other: Interval) -> Interval:
        """Return what is in both; of two that a value has for different reasons."""
        return Interval(max(self.low, other.low), min(self.high, other.high))

    def __str__(self) -> str:
        return f"{'(-∞' if self.low == -math.inf else f'[{self.low:.4g}'}, " + (
            "∞)" if self.high == math.inf else f"{self.high:.4g}]"
        )


ANY = Interval(-math.inf, math.inf)
UNIT = Interval(0.0, 1.0)
SIGNED = Interval(-1.0, 1.0)
Rule = Callable[..., Interval]


def of(numbers: Iterable[float]) -> Interval:
    """Return the smallest interval with some numbers; any, where one of them is none."""
    numbers = list(numbers)
    return ANY if any(map(math.isnan, numbers)) else Interval(min(numbers), max(numbers))


def add(a: Interval, b: Interval) -> Interval:
    return _checked(a.low + b.low, a.high + b.high)


def neg(a: Interval) -> Interval:
    return Interval(-a.high, -a.low)


def sub(a: Interval, b: Interval) -> Interval:
    return add(a, neg(b))


def mul(a: Interval, b: Interval) -> Interval:
    return of(_times(x, y) for x in (a.low, a.high) for y in (b.low, b.high))


def div(a: Interval, b: Interval) -> Interval:
    if b.low <= 0 <= b.high:
        return ANY
    return mul(a, of((1 / b.low, 1 / b.high)))


def absolute(a: Interval) -> Interval:
    return Interval(0.0 if a.low <= 0 <= a.high else min(abs(a.low), abs(a.high)), a.size)


def minimum(a: Interval, b: Interval) -> Interval:
    return Interval(min(a.low, b.low), min(a.high, b.high))


def maximum(a: Interval, b: Interval) -> Interval:
    return Interval(max(a.low, b.low), max(a.high, b.high))


def fmod(a: Interval, b: Interval) -> Interval:
    """The sign is that of a, and the result is smaller than both."""
    most = min(a.size, b.size)
    if b.low <= 0 <= b.high or not a.is_bounded:
        return ANY
    return Interval(-most if a.low < 0 else 0.0, most if a.high > 0 else 0.0)


def floor_divide(a: Interval, b: Interval) -> Interval:
    """One more to each side: a bound of the quotient that is rounded may be on the other side of a whole number."""
    found = rising(floor)(div(a, b))
    return Interval(found.low - 1, found.high + 1)


def remainder(a: Interval, b: Interval) -> Interval:
    """The sign is that of b, and the result is smaller."""
    return ANY if b.low <= 0 <= b.high or not a.is_bounded else Interval(min(b.low, 0.0), max(b.high, 0.0))


def power(base: Interval, exponent: Interval) -> Interval:
    if base.low > 0 or (base.low >= 0 and exponent.low >= 0):
        return of(_power(x, y) for x in (base.low, base.high) for y in (exponent.low, exponent.high))
    n = exponent.low
    if n != exponent.high or not n.is_integer() or n < 0:
        return ANY
    ends = of(_power(x, n) for x in (base.low, base.high))
    return Interval(0.0, ends.high) if n % 2 == 0 and n and base.high >= 0 else ends


def where(mask: Interval, a: Interval, b: Interval) -> Interval:
    return a.joined(b)


def truth(*_: Interval) -> Interval:
    """A comparison."""
    return UNIT


def sine(a: Interval) -> Interval:
    return SIGNED


def rising(function: Callable[[float], float], low: float = -math.inf) -> Rule:
    """Return the rule of a function that never falls and is defined from `low` on."""
    return lambda a: of((_value(function, a.low), _value(function, a.high))) if a.low >= low else ANY


def monotone(function: Callable[[float], float], low: float = -math.inf, high: float = math.inf) -> Rule:
    """Return the rule of a function that only rises or only falls between two numbers."""
    return lambda a: of(_value(function, x) for x in (a.low, a.high)) if low <= a.low and a.high <= high else ANY


def hyperbolic_cosine(a: Interval) -> Interval:
    return rising(math.cosh)(absolute(a))


def angle(a: Interval, b: Interval) -> Interval:
    return Interval(-math.pi, math.pi)


def rsqrt(a: Interval) -> Interval:
    ends = (math.inf if x == 0 else 1 / math.sqrt(x) for x in (a.low, a.high) if x >= 0)
    return ANY if a.low < 0 else of(ends)


def same(a: Interval) -> Interval:
    return a


def joined(*parts: Interval) -> Interval:
    """All features of several rows side by side."""
    return Interval(min(p.low for p in parts), max(p.high for p in parts))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def sign(x: float) -> float:
    return float((x > 0) - (x < 0))


def floor(x: float) -> float:
    return float(math.floor(x)) if math.isfinite(x) else x


def trunc(x: float) -> float:
    return float(math.trunc(x)) if math.isfinite(x) else x


def nearest(x: float) -> float:
    return float(round(x)) if math.isfinite(x) else x


def logit(x: float) -> float:
    return math.log(x / (1 - x)) if x < 1 else math.inf


def _checked(low: float, high: float) -> Interval:
    return ANY if math.isnan(low) or math.isnan(high) else Interval(low, high)


def _times(x: float, y: float) -> float:
    """A product; of zero and a bound that is infinite, whose numbers are finite, it is zero."""
    return 0.0 if x == 0 or y == 0 else x * y


def _power(x: float, y: float) -> float:
    if math.isinf(y) and x in (0.0, 1.0):
        return math.nan
    return _value(lambda base: base**y, x)


def _value(function: Callable[[float], float], x: float) -> float:
    """The value at a bound, infinite where it is too large; at the end of a domain the limit."""
    try:
        return function(x)
    except OverflowError:
        return math.inf
    except (ValueError, ZeroDivisionError):
        return -math.inf
