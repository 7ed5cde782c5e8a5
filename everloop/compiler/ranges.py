"""Between which numbers every value of a step lies at every step: proved from the graph, for any input.

Each value has one interval for all of its features. The intervals of the states are a fixed point: the step takes what
is in them to what is in them, and the states before the first step are in them. Where none is found, a state is
unbounded. Inputs are unbounded, and so are parameters whose numbers are not given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from everloop.compiler import intervals
from everloop.compiler.conditions import chosen
from everloop.compiler.corners import Corners
from everloop.compiler.intervals import ANY, Interval
from everloop.compiler.ir import Graph, Value
from everloop.compiler.quotients import mixed, quotient
from everloop.compiler.rewrite import Depends

ROUNDS = 4  # of following the states exactly, before larger intervals are tried
LEVELS = (1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, 1024.0)
ZERO = Interval(0.0, 0.0)


@dataclass(frozen=True)
class Ranges:
    """The range of each state by name, and of each value of the graph."""

    states: dict[str, Interval]
    values: dict[Value, Interval]

    @property
    def unbounded(self) -> list[str]:
        """The states that have no bound."""
        return [name for name, found in self.states.items() if not found.is_bounded]


class Analysis:
    """The ranges of one graph.

    tensors: numbers of parameters by name, as far as they are known; given: the range of other inputs by name; rounded:
    of products whose rows are rounded to 8 bits, the matrix, a line a result, and the bound of the rows' scale.
    """

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, Tensor] | None = None,
        given: Mapping[str, Interval] | None = None,
        rounded: Mapping[Value, tuple[Tensor, float]] | None = None,
    ) -> None:
        self.graph, self.given, self.rounded = graph, dict(given or {}), dict(rounded or {})
        self._corners = Corners()
        self._known_sums: dict[Value, tuple[Tensor, Tensor] | None] = {}
        self._path: list[dict[str, Interval]] = []  # the states of the last steps that were followed
        self.tensors = fixed(graph, {name: t.detach() for name, t in (tensors or {}).items()})
        self._fixed = {v: _range_of(t) for v, t in self.tensors.items()}

    def run(self, initial: Mapping[str, Interval] | None = None) -> Ranges:
        """Return the ranges; `initial`: of states before the first step, zero where they are not given."""
        begin = {name: (initial or {}).get(name, ZERO) for name in self._read()}
        states = dict(begin)
        while True:
            found = self._bounded(states)
            if found is not None:
                after = self._after(found)  # whatever a state is, it was so first, or a step has made it
                values = self.step({n: begin[n].joined(after[n]) for n in begin})
                states = {
                    n: begin[n].joined(values[v]) if n in begin else values[v] for n, v in self.graph.outputs.items()
                }
                return Ranges(states, values)
            states, after = self._path[-2:]
            growing = [n for n in states if not states[n].holds(after[n])]
            last = max(growing, key=lambda n: (after[n].size, n))  # the one that grows most may take the others along
            states[last] = _without_end(states[last], after[last])

    def _read(self) -> list[str]:
        """Return the states that a step reads back."""
        return [v.name for v in self.graph.inputs if v.group == "state"]

    def _bounded(self, states: Mapping[str, Interval]) -> dict[str, Interval] | None:
        """Return ranges with `states` in them that no step leaves; None where none are found."""
        path = self._path = [dict(states)]
        for _ in range(ROUNDS):
            now, after = path[-1], self._after(path[-1])
            if all(now[n].holds(after[n]) for n in now):
                return now
            path.append({n: now[n].joined(after[n]) for n in now})
        growing = [n for n in states if path[-1][n] != path[-2][n]]
        for level in (None, *LEVELS):
            tried = dict(path[-1])
            for n in growing:
                tried[n] = _limit(path[-3][n], path[-2][n], path[-1][n]) if level is None else _wider(tried[n], level)
            for _ in range(2):
                after = self._after(tried)
                if all(tried[n].holds(after[n]) for n in tried):
                    return tried
                tried = {n: tried[n] if n in growing else tried[n].joined(after[n]) for n in tried}
        return None

    def _after(self, states: Mapping[str, Interval]) -> dict[str, Interval]:
        values = self.step(states)
        return {name: values[self.graph.outputs[name]] for name in states}

    def step(self, states: Mapping[str, Interval]) -> dict[Value, Interval]:
        """Return the range of each value, given those of the states before a step."""
        found: dict[Value, Interval] = {}
        for value in self.graph.values:
            known = self._fixed.get(value)
            found[value] = self._of(value, found, states) if known is None else known
        return found

    def _of(self, value: Value, found: Mapping[Value, Interval], states: Mapping[str, Interval]) -> Interval:
        args = [found[a] for a in value.args]
        if value.op == "constant":
            return intervals.of((value.number,))
        if value.op == "input":
            return states[value.name] if value.group == "state" else self.given.get(value.name, ANY)
        if value.kind == "product":
            return self._product(value, args[0])
        if value.op == "sum":
            return _sum(value, args[0]).within(mixed(value, found.__getitem__))
        if value.op == "max" and value.data:  # of no feature it is -inf
            return Interval(-math.inf, args[0].high)
        rule = value.operation.interval
        if rule is None:
            return ANY
        of = found.__getitem__
        if value.op == "where":
            return rule(*args).within(chosen(value, of))
        if value.op == "mul" and value.args[0] is value.args[1]:
            return intervals.power(args[0], Interval(2.0, 2.0)).within(quotient(value, of))
        return rule(*args).within(self._corners.range(value, of)).within(quotient(value, of))

    def _product(self, value: Value, row: Interval) -> Interval:
        if row == ZERO:
            return ZERO
        sums = self._sums(value)
        if value in self.rounded:
            row = _rounded(row, self.rounded[value][1])
        if sums is None or not row.is_bounded:
            return ANY
        ups, downs = sums
        return Interval(
            float((ups * row.low + downs * row.high).min()), float((ups * row.high + downs * row.low).max())
        )

    def _sums(self, value: Value) -> tuple[Tensor, Tensor] | None:
        """Return, for each result of a product, the sums of its positive and its negative factors, as far as known."""
        if value not in self._known_sums:
            matrix = self.tensors.get(value.args[1])
            matrix = matrix if matrix is None or value.op == "linear" else matrix.mT
            matrix = self.rounded[value][0] if value in self.rounded else matrix
            wide = None if matrix is None else matrix.double()
            self._known_sums[value] = None if wide is None else (wide.clamp(min=0).sum(1), wide.clamp(max=0).sum(1))
        return self._known_sums[value]


def fixed(graph: Graph, tensors: Mapping[str, Tensor]) -> dict[Value, Tensor]:
    """Return the numbers of the values that are made of known parameters alone."""
    is_moving = Depends(lambda v: v.op == "input" and not _is_known(v, tensors))
    found: dict[Value, Any] = {}
    for value in graph.values:
        if is_moving(value) or value.type.rows or value.op == "constant":
            continue
        if value.op == "input":
            found[value] = value.data[1] if value.group == "literal" else tensors[value.name]
            continue
        args = [_constant(a, graph.dtype) if a.op == "constant" else found[a] for a in value.args]
        found[value] = value.data[0](*args) if value.op == "call" else value.operation.meaning(*args, *value.data)
    return found


def _constant(value: Value, dtype: torch.dtype) -> Tensor:
    """Return a constant; a number alone takes the dtype of what it meets."""
    return torch.full(value.type.shape, value.number, dtype=dtype if value.type.shape else torch.float64)


def _is_known(value: Value, tensors: Mapping[str, Tensor]) -> bool:
    return value.group == "literal" or (value.group == "fixed" and value.name in tensors)


def _rounded(row: Interval, bound: float) -> Interval:
    """Return a row's range with its numbers rounded to 127 steps, at least as many as its largest or the bound."""
    top = max(row.size, bound)
    half = top / 254
    return Interval(max(row.low - half, -top), min(row.high + half, top))


def _range_of(tensor: Tensor) -> Interval:
    return intervals.of((float(tensor.min()), float(tensor.max()))) if tensor.numel() else ZERO


def _sum(value: Value, each: Interval) -> Interval:
    """A sum of some features; of groups of them, of at most all and at least none."""
    width = value.args[0].width
    if not value.data:
        return intervals.mul(each, Interval(width, width))
    return intervals.mul(each, Interval(0, width))


def _limit(a: Interval, b: Interval, c: Interval) -> Interval:
    """Where an interval may end that grows by steps, each smaller than the one before it."""
    return Interval(-_end(-a.low, -b.low, -c.low), _end(a.high, b.high, c.high))


def _end(a: float, b: float, c: float) -> float:
    if c <= b or not math.isfinite(c) or b <= a or c - b >= b - a:
        return c
    return c + 1.001 * (c - b) * (c - b) / ((b - a) - (c - b)) + 1e-9


def _without_end(a: Interval, b: Interval) -> Interval:
    """Return an interval that has no end on the sides on which it has grown."""
    return Interval(a.low if a.low <= b.low else -math.inf, a.high if b.high <= a.high else math.inf)


def _wider(a: Interval, size: float) -> Interval:
    """Return an interval of at least this size, on the sides on which it has grown from zero."""
    return Interval(min(a.low, -size) if a.low < 0 else a.low, max(a.high, size) if a.high > 0 else a.high)
