"""Formulas on values of a graph: `g * (1.0 - y * y)` records two multiplications and a subtraction."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any


class Expression:
    """A value, and how operations on it are made: make(operation, *values and numbers)."""

    __slots__ = ("make", "value")

    def __init__(self, make: Callable[..., Any], value: Any) -> None:
        self.make, self.value = make, value

    def __add__(self, other: Expression | float) -> Expression:
        return apply("add", self, other)

    def __sub__(self, other: Expression | float) -> Expression:
        return apply("sub", self, other)

    def __mul__(self, other: Expression | float) -> Expression:
        return apply("mul", self, other)

    def __truediv__(self, other: Expression | float) -> Expression:
        return apply("div", self, other)

    def __rsub__(self, other: float) -> Expression:
        return apply("sub", other, self)

    def __rmul__(self, other: float) -> Expression:
        return apply("mul", other, self)

    def __rtruediv__(self, other: float) -> Expression:
        return apply("div", other, self)

    def __neg__(self) -> Expression:
        return apply("neg", self)


def apply(operation: str, *args: Expression | float) -> Expression:
    """Return an operation of expressions and numbers."""
    make = next(a.make for a in args if isinstance(a, Expression))
    return Expression(make, make(operation, *(a.value if isinstance(a, Expression) else a for a in args)))


def of(operation: str) -> Callable[..., Expression]:
    """Return an operation as a function."""
    return partial(apply, operation)
