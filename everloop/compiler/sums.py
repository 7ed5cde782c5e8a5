"""Sums over the features of a gradient, taken apart: what can be summed early is, and what sums to zero is left out.

Normalisations need it: their gradient is a sum of terms scaled by numbers that are themselves sums over features.
Summed as it stands, every such sum would pass over the row again. Only products are taken apart, so that nothing
cancels that was not rounded before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from everloop.compiler.ir import Type, Value
from everloop.compiler.rules import Simplifying, is_number, spread


def total(b: Simplifying, value: Value) -> Value:
    """Return the sum of a row over its features."""
    number = spread(value)
    if number is not None:
        return b.made("mul", number, float(value.width))
    if is_centred(value):
        return b.constant(0.0, Type((1,), rows=True))
    if value.op == "neg":
        return b.made("neg", total(b, value.args[0]))
    if value.op in ("add", "sub") and any(map(_is_scaled, value.args)) and all(map(_is_wide, value.args)):
        return b.made(value.op, *(total(b, a) for a in value.args))
    scaled = _factors(value)
    if scaled is not None:
        found = total(b, scaled[0])
        return found if is_number(found, 0.0) else b.made("mul", found, scaled[1])
    return b.made("sum", value)


def together(b: Simplifying, numbers: list[Value], when: Callable[[Value], int]) -> list[Value]:
    """Return fewer numbers of the same total: one sum over features instead of several of rows as wide.

    when: the level at which a row is there; rows that are there later are not waited for.
    """
    groups: dict[tuple[Value | None, int, int], list[tuple[Value, bool]]] = defaultdict(list)
    rest = []
    for number in numbers:
        is_negative, scale, row = _scaled_sum(number)
        if row is None:
            rest.append(number)
        else:
            groups[scale, row.width, when(row)].append((row, is_negative))
    for (scale, _, _), terms in groups.items():
        (whole, is_negative), *others = sorted(terms, key=lambda term: term[1])
        for row, negative in others:
            whole = b.made("sub" if negative != is_negative else "add", whole, row)
        result = b.made("sum", whole)
        result = result if scale is None else b.made("mul", result, scale)
        rest.append(b.made("neg", result) if is_negative else result)
    return rest


def _scaled_sum(number: Value) -> tuple[bool, Value | None, Value | None]:
    """Take apart -sum(row) * scale: return (whether it is negative, scale, row), no row where it is none."""
    is_negative, scale = False, None
    while number.op == "neg":
        is_negative, number = not is_negative, number.args[0]
    if number.op == "mul" and number.args[0].op == "sum" and number.args[1].width == 1:
        number, scale = number.args
    row = number.args[0] if number.op == "sum" and number.args[0].width > 1 else None
    return is_negative, scale, row


def is_centred(value: Value) -> bool:
    """Return whether a row is one minus its own mean, so that it sums to zero."""
    if value.op != "sub":
        return False
    row, mean = value.args
    for whole, number in (mean.args, mean.args[::-1]) if mean.op == "mul" else ():
        if whole.op == "sum" and not whole.data and whole.args[0] is row and row.width > 1:
            return is_number(number, 1 / row.width)
    return False


def _factors(value: Value) -> tuple[Value, Value] | None:
    """Return (row, number) of a row that is scaled by a number."""
    for row, number in (value.args, value.args[::-1]) if value.op == "mul" else ():
        if row.width == value.width > 1 and number.width == 1 and row.type.rows:
            return row, number
    return None


def _is_scaled(value: Value) -> bool:
    return _is_scaled(value.args[0]) if value.op == "neg" else _factors(value) is not None


def _is_wide(value: Value) -> bool:
    return value.width > 1 and value.type.rows
