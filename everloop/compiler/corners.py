"""The range of sums of products: a polynomial that is linear in each variable is largest and smallest at corners.

So z * h + (1 - z) * n, h + z * (n - h) and every other way to write the same mixture have the range of h and n, where
interval arithmetic, which takes the two z for different numbers, would say twice as much. Shares of one sum, as those
of a softmax, are not free of each other: their corners are those where one is 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import product
from math import prod

from everloop.compiler import intervals
from everloop.compiler.intervals import ANY, Interval
from everloop.compiler.ir import Value
from everloop.compiler.quotients import Share, share

TERMS, VARIABLES = 16, 8  # of a polynomial; larger ones have no range but that of interval arithmetic
Term = tuple[Value, ...]  # variables in the order of their names, one as often as its power says
Polynomial = dict[Term, float]
Point = dict[tuple[Value, int], float]  # of powers of variables, numbers
_OPS = ("add", "sub", "neg", "mul", "cast", "stop")


class Corners:
    """Polynomials of the values of a graph."""

    def __init__(self) -> None:
        self._known: dict[Value, Polynomial] = {}
        self._names: dict[Value, int] = {}

    def range(self, value: Value, of: Callable[[Value], Interval]) -> Interval:
        """Return the range of a value, given those of what it is made of."""
        if value.op not in ("add", "sub", "mul"):
            return ANY
        terms = self._polynomial(value)
        if value in self._names:  # a variable of its own, whose range is asked for
            return ANY
        powers = {(v, n) for term in terms for v, n in Counter(term).items()}
        if len(powers) > VARIABLES or not all(of(v).is_bounded for v, _ in powers):
            return ANY
        # A power is a variable of its own: its range is right, if wider than that of both together.
        factors = [(number, list(Counter(term).items())) for term, number in terms.items()]
        choices = _of_shares(terms, of)
        shared = {power for at in choices for power in at[0]}
        choices += [[{(v, n): end} for end in _ends(of(v), n)] for v, n in powers if (v, n) not in shared]
        found = []
        for corner in product(*choices):
            at = {power: number for chosen in corner for power, number in chosen.items()}
            found.append(sum(number * prod(at[power] for power in powers) for number, powers in factors))
        return intervals.of(found)

    def _polynomial(self, value: Value) -> Polynomial:
        if value not in self._known:
            self._known[value] = self._expanded(value)
        return self._known[value]

    def _expanded(self, value: Value) -> Polynomial:
        if value.op == "constant":
            return {(): value.number}
        if value.op not in _OPS:
            return self._variable(value)
        parts = [self._polynomial(a) for a in value.args]
        if value.op == "mul":
            if len(parts[0]) * len(parts[1]) > TERMS:
                return self._variable(value)
            terms = [(self._sorted(s + t), a * b) for s, a in parts[0].items() for t, b in parts[1].items()]
        else:
            second = -1.0 if value.op == "sub" else 1.0
            first = -1.0 if value.op == "neg" else 1.0
            terms = [(t, first * a) for t, a in parts[0].items()]
            terms += [(t, second * a) for part in parts[1:] for t, a in part.items()]
        found: Polynomial = {}
        for term, number in terms:
            found[term] = found.get(term, 0.0) + number
        found = {term: number for term, number in found.items() if number}
        return found if len(found) <= TERMS else self._variable(value)

    def _variable(self, value: Value) -> Polynomial:
        self._names.setdefault(value, len(self._names))
        return {(value,): 1.0}

    def _sorted(self, term: Term) -> Term:
        return tuple(sorted(term, key=self._names.__getitem__))


def _ends(a: Interval, n: int) -> tuple[float, float]:
    raised = a if n == 1 else intervals.power(a, Interval(float(n), float(n)))
    return raised.low, raised.high


def _of_shares(terms: Iterable[Term], of: Callable[[Value], Interval]) -> list[list[Point]]:
    """Return the corners of each group of shares of one sum that a polynomial is linear in: one is 1, the others 0."""
    variables = dict.fromkeys(v for term in terms for v in term)
    groups: list[dict[Value, Share]] = []
    for v in variables:
        found = share(v, of)
        if found is None:
            continue
        beside = next((g for g in groups if all(found.is_beside(other) for other in g.values())), None)
        if beside is None:
            groups.append(beside := {})
        beside[v] = found
    corners = []
    for group in groups:
        if len(group) > 1 and all(sum(v in group for v in term) <= 1 for term in terms):
            points: list[Point] = [{(v, 1): float(v is one) for v in group} for one in group]
            is_all = len(group) == next(iter(group.values())).parts
            corners.append(points if is_all else [*points, {(v, 1): 0.0 for v in group}])
    return corners
