"""The range of what a condition chooses: in `where(u < 6, u, 6)` the u that is chosen is smaller than 6.

A fact is an interval that a value lies in wherever a mask is true, or wherever it is not. It holds feature by feature,
so that it is passed on to what element-wise operations make of the value, and to nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from everloop.compiler import intervals
from everloop.compiler.intervals import ANY, Interval
from everloop.compiler.ir import Value

DEPTH = 6  # of operations between a fact and what is made of the value
NOTHING = Interval(math.inf, -math.inf)  # no number at all
Range = Callable[[Value], Interval]
Facts = dict[Value, Interval]


def chosen(value: Value, of: Range) -> Interval:
    """Return the range of a `where`, given those of what it is made of."""
    return ANY if (found := _chosen(value, {}, of, DEPTH)) == NOTHING else found


def _chosen(value: Value, facts: Facts, of: Range, depth: int) -> Interval:
    mask, *branches = value.args
    each = (
        _under(branch, facts | _facts(mask, truth, facts, of), of, depth)
        for branch, truth in zip(branches, (True, False), strict=True)
    )
    first, second = each
    return first.joined(second)


def _under(value: Value, facts: Facts, of: Range, depth: int) -> Interval:
    """Return the range of a value where the facts hold."""
    known = of(value).within(facts.get(value, ANY))
    rule = value.operation.interval
    if depth and value.op == "where":
        known = known.within(_chosen(value, facts, of, depth - 1))
    elif depth and value.kind == "map" and rule is not None:
        known = known.within(rule(*(_under(a, facts, of, depth - 1) for a in value.args)))
    return known if known.low <= known.high else NOTHING


def _facts(mask: Value, truth: bool, known: Facts, of: Range) -> Facts:
    """Return what holds where a mask is 1, or where it is 0; comparisons with NaN are 0."""
    if mask.op in ("stop", "cast"):
        return _facts(mask.args[0], truth, known, of)
    if mask.op == "sub" and mask.args[0].op == "constant" and mask.args[0].number == 1:
        return _facts(mask.args[1], not truth, known, of)
    if (mask.op, truth) in (("mul", True), ("minimum", True), ("maximum", False)):
        first = _facts(mask.args[0], truth, known, of)
        return first | _facts(mask.args[1], truth, known | first, of)
    if mask.op not in ("less", "less_equal", "equal"):
        return {}
    a, b = mask.args
    if mask.op == "equal":
        if a is b:
            return {} if truth else {a: NOTHING}
        low_to_high = [(a, of(b)), (b, of(a))] if truth else []
    elif truth:
        low_to_high = [(a, Interval(-math.inf, of(b).high)), (b, Interval(of(a).low, math.inf))]
    else:  # or one of both is NaN, and a constant is not
        low_to_high = [(a, Interval(of(b).low, math.inf))] if b.op == "constant" else []
        low_to_high += [(b, Interval(-math.inf, of(a).high))] if a.op == "constant" else []
    found: Facts = {}
    for value, interval in low_to_high:
        _note(value, interval, known | found, found)
    return found


def _note(value: Value, interval: Interval, known: Facts, found: Facts) -> None:
    """Note a fact, and what it says of a value that was scaled or shifted by a constant."""
    if value.op == "constant":
        return
    found[value] = interval.within(known.get(value, ANY))
    if value.op in ("stop", "neg"):
        _note(value.args[0], interval if value.op == "stop" else intervals.neg(interval), known, found)
    for number, other in (value.args, value.args[::-1]) if value.op in ("add", "mul") else ():
        if number.op == "constant" and math.isfinite(number.number):
            if value.op == "add":
                _note(other, intervals.sub(interval, Interval(number.number, number.number)), known, found)
            elif number.number:
                _note(other, intervals.mul(interval, Interval(1 / number.number, 1 / number.number)), known, found)
