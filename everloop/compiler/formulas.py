"""Operations of the table that a target need not know, as formulas of those that it does."""

from __future__ import annotations

import math

from everloop.compiler.expression import Expression, of

absolute, atan, cos, equal, exp, expm1 = of("abs"), of("atan"), of("cos"), of("equal"), of("exp"), of("expm1")
floor, fmod, less, log, log1p, minimum = of("floor"), of("fmod"), of("less"), of("log"), of("log1p"), of("minimum")
rsqrt, sin, sqrt, where = of("rsqrt"), of("sin"), of("sqrt"), of("where")
FAR = 1e8  # from here on 1 + a^2 is a^2


def power(base: Expression, exponent: Expression) -> Expression:
    """At the edges as C's pow: a finite negative base has a power only for a whole exponent."""
    size = exp(exponent * log(absolute(base)))
    size = where(equal(exponent, 0.0), 1.0, where(equal(base, 1.0), 1.0, size))
    half = exponent * 0.5
    is_even, is_whole = equal(floor(half), half), equal(floor(exponent), exponent)
    minus_one = where(equal(base, -1.0), 1.0, size)  # to an infinite power, which counts as even
    is_edge = where(equal(base, 0.0), 1.0, equal(base, -math.inf))
    other = where(is_edge, size, (size - size) / 0.0)
    negative = where(is_even, minus_one, where(is_whole, -size, other))
    has_sign = where(equal(base, 0.0), less(1.0 / base, 0.0), less(base, 0.0))
    return where(has_sign, negative, size)


def sinh(a: Expression) -> Expression:
    """Of halves, whose exponentials are finite where the result is."""
    up, down = expm1(0.5 * a), expm1(-0.5 * a)
    return (0.5 * (up - down)) * (up + down + 2.0)


def cosh(a: Expression) -> Expression:
    up, down = exp(0.5 * a), exp(-0.5 * a)
    return (0.5 * up) * up + (0.5 * down) * down


def asinh(a: Expression) -> Expression:
    size = absolute(a)
    near = minimum(size, FAR)
    small = log1p(near + near * (near / (sqrt(near * near + 1.0) + 1.0)))
    value = where(less(FAR, size), log(size) + math.log(2), small)
    return where(less(a, 0.0), -value, where(equal(a, 0.0), a, value))


def acosh(a: Expression) -> Expression:
    above = minimum(a, FAR) - 1.0
    small = log1p(above + sqrt(above) * sqrt(above + 2.0))
    return where(less(FAR, a), log(a) + math.log(2), small)


def tan(a: Expression) -> Expression:
    return sin(a) / cos(a)


def asin(a: Expression) -> Expression:
    return atan(a * rsqrt((1.0 - a) * (a + 1.0)))


def acos(a: Expression) -> Expression:
    return 2.0 * atan(sqrt((1.0 - a) / (a + 1.0)))


def atanh(a: Expression) -> Expression:
    return 0.5 * (log1p(a) - log1p(-a))


def remainder(a: Expression, b: Expression) -> Expression:
    """The rest of the quotient below, with the sign of the divisor."""
    rest = fmod(a, b)
    return where(has_other_sign(rest, b), rest + b, rest)


def floor_divide(a: Expression, b: Expression) -> Expression:
    """The quotient below, from the exact remainder, since a / b may be rounded up to an integer."""
    quotient, rest = a / b, fmod(a, b)
    near = (a - rest) / b - has_other_sign(rest, b)
    below = floor(near)
    whole = below + less(0.5, near - below)
    return where(equal(b, 0.0), quotient, where(equal(near, 0.0), quotient * 0.0, whole))


def has_other_sign(rest: Expression, b: Expression) -> Expression:
    return where(less(b, 0.0), less(0.0, rest), less(rest, 0.0))
