"""Gradients of operations of the table that take more than a line."""

from __future__ import annotations

from collections.abc import Callable

from everloop.compiler.expression import Expression, of

Gradient = Callable[..., Expression | tuple[Expression | None, ...] | None]
equal, less, less_equal, log = of("equal"), of("less"), of("less_equal"), of("log")
power, rsqrt = of("power"), of("rsqrt")
sign, total, where = of("sign"), of("sum"), of("where")


def none(g: Expression, y: Expression, *args: Expression) -> None:
    """No gradient."""


def of_extreme(is_lower: Callable[[Expression, Expression], Expression]) -> Gradient:
    """The chosen argument gets the gradient; equal ones get half each, and both where one is NaN."""

    def gradient(g: Expression, y: Expression, a: Expression, b: Expression) -> tuple[Expression, Expression]:
        term = where(equal(a, b), g * 0.5, g)
        return where(is_lower(a, b), 0.0, term), where(is_lower(b, a), 0.0, term)

    return gradient


def of_power(g: Expression, y: Expression, base: Expression, exponent: Expression) -> tuple[Expression, ...]:
    by_base = exponent * power(base, exponent - 1.0)
    is_silent = equal(base, 0.0) * less_equal(0.0, exponent)
    return g * where(equal(exponent, 0.0), 0.0, by_base), g * where(is_silent, 0.0, y * log(base))


def of_angle(g: Expression, y: Expression, a: Expression, b: Expression) -> tuple[Expression, Expression]:
    square = a * a + b * b
    share = where(equal(square, 0.0), 0.0, 1.0 / square)
    return g * b * share, -(g * a * share)


def of_logit(g: Expression, y: Expression, a: Expression) -> Expression:
    """NaN outside 0 and 1, as the value is."""
    root = rsqrt(a * (1.0 - a))
    return g * (root * root)


def of_acosh(g: Expression, y: Expression, a: Expression) -> Expression:
    """Near one by factors, which lose no digits; below zero, where there is no acosh, as PyTorch."""
    return g * rsqrt(where(less(a, 0.0), a * a - 1.0, (a - 1.0) * (a + 1.0)))


def of_largest(g: Expression, y: Expression, a: Expression) -> Expression:
    is_top = equal(a, y)
    return is_top * (g / total(is_top))
