"""Fourth pass: the gradient of a step. One rule per operation, applied from the results back to the leaves."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from everloop.compiler import sums
from everloop.compiler.ir import Graph, Type, Value, walk
from everloop.compiler.rewrite import Depends, same
from everloop.compiler.rules import Simplifying

Parts = Iterator[tuple[Value, Value]]  # (argument, its term of the gradient)
Rule = Callable[["Simplifying", Value, Value], Parts]


def every(name: str) -> str:
    """Return the name of the sequence of a state's values."""
    return f"{name}[t]"


def before(name: str) -> str:
    """Return the name of the sequence of a state's values, read one step back."""
    return f"{name}[t-1]"


def gradient_of(name: str) -> str:
    """Return the name of a gradient."""
    return f"d({name})"


@dataclass
class Gradient:
    """The gradient step.

    forward: the step itself, of the values that the gradient reads.
    graph: its outputs are "d(NAME)" for each state and each cut that is not a matrix.
    pairs: for each matrix, (G, A) whose product summed over time is its gradient: G.T @ A.
    cotangents: the inputs that carry gradients into the step.
    """

    forward: Graph
    graph: Graph
    pairs: dict[str, list[tuple[Value, Value]]] = field(default_factory=dict)
    cotangents: list[Value] = field(default_factory=list)


def differentiate(loop: Graph, exposed: list[str], wanted: frozenset[str]) -> Gradient:
    """Return the gradient of the loop's step.

    exposed: the states whose whole sequence is a result, so that every step receives a gradient for them.
    wanted:  the cuts whose gradient is asked for.
    """
    b = Simplifying()
    moved: dict[Value, Value] = {}
    for value in loop.values:
        b.line = value.where
        moved[value] = same(b, value, tuple(moved[a] for a in value.args))
    leaves = [moved[v] for v in loop.inputs if v.group == "state" or v.name in wanted]
    matters = Depends(lambda v: v in leaves)
    forward = Graph({name: moved[v] for name, v in loop.outputs.items()}, {moved[v]: n for v, n in loop.names.items()})
    result = Gradient(forward, Graph({}))
    reverse = _Reverse(b, matters, forward)
    for name, value in loop.outputs.items():
        carried = b.make("input", data=("state", gradient_of(name)), type=value.type)
        result.cotangents.append(carried)
        reverse.add(moved[value], carried)
        if name in exposed:
            given = b.make("input", data=("sequence", gradient_of(every(name))), type=value.type)
            result.cotangents.append(given)
            reverse.add(moved[value], given)
    for value in reversed(list(walk(moved[v] for v in loop.outputs.values()))):
        if matters(value):
            reverse.visit(value)
    for name in loop.outputs:
        state = next((v for v in leaves if v.group == "state" and v.name == name), None)
        width = loop.outputs[name].width
        zero = b.constant(0.0, Type((width,), rows=True))
        result.graph.outputs[gradient_of(name)] = reverse.total(state) if state is not None else zero
    for leaf in leaves:
        if leaf.group == "matrix":
            result.pairs[leaf.name] = reverse.pairs[leaf]
        elif leaf.group != "state":
            result.graph.outputs[gradient_of(leaf.name)] = reverse.total(leaf)
    result.graph.verify()
    return result


class _Reverse:
    """The gradient of each value, gathered from its readers feature range by feature range."""

    def __init__(self, builder: Simplifying, matters: Depends, forward: Graph) -> None:
        self.b = builder
        self.matters = matters
        self.known = set(forward.values)
        self.levels: dict[Value, int] = {}
        self.terms: dict[Value, list[tuple[int, int, Value]]] = defaultdict(list)
        self.pairs: dict[Value, list[tuple[Value, Value]]] = defaultdict(list)

    def add(self, value: Value, term: Value, start: int = 0, stop: int | None = None) -> None:
        if self.matters(value):
            self.terms[value].append((start, value.width if stop is None else stop, term))

    def total(self, value: Value) -> Value:
        """Return the gradient of `value`, a row of its width."""
        b, terms = self.b, self.terms[value]
        if not terms:
            return b.constant(0.0, Type((value.width,), rows=True))
        if value.width == 1 and len(terms) > 1:
            terms = [(0, 1, number) for number in sums.together(b, [g for _, _, g in terms], self.level)]
        edges = sorted({0, value.width, *(e for start, stop, _ in terms for e in (start, stop))})
        segments = []
        for low, high in pairwise(edges):
            parts = [b.part(g, low - start, high - start) if g.width > 1 else g
                     for start, stop, g in terms if start <= low and high <= stop]  # fmt: skip
            whole = parts[0] if parts else b.constant(0.0, Type((high - low,), rows=True))
            for part in parts[1:]:
                whole = b.made("add", whole, part)
            if whole.width != high - low:
                whole = b.made("add", whole, b.constant(0.0, Type((high - low,), rows=True)))
            segments.append(whole)
        if len(segments) == 1:
            return segments[0]
        joined = b.make("cat", *segments)
        return b.local(joined, joined.args)

    def level(self, value: Value) -> int:
        """Return how many sums over features and products of gradients come before a value, one after the other."""
        for each in walk([value]):
            if each not in self.levels:
                below = max((self.levels[a] for a in each.args), default=0)
                late = each.kind in ("reduce", "product") and each not in self.known
                self.levels[each] = 0 if each in self.known else below + late
        return self.levels[value]

    def visit(self, value: Value) -> None:
        """Hand the gradient of `value` on to its arguments."""
        if value.op in ("input", "constant") or value not in self.terms:
            return
        self.b.line = value.where
        if value.op == "slice":
            self._slice(value)
            return
        g = self.total(value)
        if value.kind == "product":
            self._product(value, g)
        elif value.op == "cat":
            at = 0
            for arg in value.args:
                self.add(arg, self.b.part(g, at, at + arg.width))
                at += arg.width
        else:
            for arg, term in RULES[value.op](self.b, value, g):
                if self.matters(arg):
                    self.add(arg, sums.total(self.b, term) if term.width > arg.width else term)

    def _slice(self, value: Value) -> None:
        """A slice of a slice ends at the value that is no slice."""
        start = value.data[0]
        self.add(value.args[0], self.total(value), start, start + value.width)

    def _product(self, value: Value, g: Value) -> None:
        row, matrix = value.args
        if self.matters(row):
            self.add(row, self.b.make("matmul" if value.op == "linear" else "linear", g, matrix))
        if self.matters(matrix):
            self.pairs[matrix].append((g, row) if value.op == "linear" else (row, g))


def _where(b: Simplifying, mask: Value, g: Value | float, otherwise: Value | float = 0.0) -> Value:
    return b.made("where", mask, g, otherwise)


def _extreme(b: Simplifying, v: Value, g: Value) -> Parts:
    """The larger (smaller) argument gets the gradient; equal ones get half each, and both where one is NaN."""
    left, right = v.args
    lower, upper = (left, right) if v.op == "maximum" else (right, left)
    term = _where(b, b.made("equal", left, right), b.made("mul", g, 0.5), g)
    yield left, _where(b, b.made("less", lower, upper), 0.0, term)
    yield right, _where(b, b.made("less", upper, lower), 0.0, term)


def _power(b: Simplifying, v: Value, g: Value) -> Parts:
    base, exponent = v.args
    derivative = b.made("mul", exponent, b.made("power", base, b.made("sub", exponent, 1.0)))
    yield base, b.made("mul", g, _where(b, b.made("equal", exponent, 0.0), 0.0, derivative))
    silent = b.made("mul", b.made("equal", base, 0.0), b.made("less_equal", 0.0, exponent))
    yield exponent, b.made("mul", g, _where(b, silent, 0.0, b.made("mul", v, b.made("log", base))))


def _root(b: Simplifying, v: Value, g: Value) -> Value:
    """The length of a row has no derivative where it is 0; PyTorch takes 0."""
    return _where(b, b.made("equal", v, 0.0), 0.0, b.made("div", b.made("mul", g, 0.5), v))


def _max(b: Simplifying, v: Value, g: Value) -> Parts:
    top = b.made("equal", v.args[0], v)
    yield v.args[0], b.made("mul", top, b.made("div", g, b.made("sum", top)))


def _each(*terms: Callable[[Simplifying, Value, Value], Value]) -> Rule:
    """Return the rule that gives argument k what the k-th function returns."""

    def rule(b: Simplifying, v: Value, g: Value) -> Parts:
        for arg, term in zip(v.args, terms, strict=True):
            yield arg, term(b, v, g)

    return rule


def _none(b: Simplifying, v: Value, g: Value) -> Parts:
    return iter(())


RULES: dict[str, Rule] = {
    "add": _each(lambda b, v, g: g, lambda b, v, g: g),
    "sub": _each(lambda b, v, g: g, lambda b, v, g: b.made("neg", g)),
    "mul": _each(lambda b, v, g: b.made("mul", g, v.args[1]), lambda b, v, g: b.made("mul", g, v.args[0])),
    "div": _each(
        lambda b, v, g: b.made("div", g, v.args[1]),
        lambda b, v, g: b.made("neg", b.made("div", b.made("mul", g, v), v.args[1])),
    ),
    "neg": _each(lambda b, v, g: b.made("neg", g)),
    "abs": _each(lambda b, v, g: b.made("mul", g, b.made("sign", v.args[0]))),
    "sign": _none,
    "floor": _none,
    "sqrt": _each(lambda b, v, g: b.made("div", b.made("mul", g, 0.5), v)),
    "rsqrt": _each(lambda b, v, g: b.made("mul", b.made("mul", g, -0.5), b.made("mul", v, b.made("mul", v, v)))),
    "exp": _each(lambda b, v, g: b.made("mul", g, v)),
    "expm1": _each(lambda b, v, g: b.made("mul", g, b.made("add", v, 1.0))),
    "log": _each(lambda b, v, g: b.made("div", g, v.args[0])),
    "log1p": _each(lambda b, v, g: b.made("div", g, b.made("add", v.args[0], 1.0))),
    "sin": _each(lambda b, v, g: b.made("mul", g, b.made("cos", v.args[0]))),
    "cos": _each(lambda b, v, g: b.made("neg", b.made("mul", g, b.made("sin", v.args[0])))),
    "tanh": _each(lambda b, v, g: b.made("mul", g, b.made("sub", 1.0, b.made("mul", v, v)))),
    "sigmoid": _each(lambda b, v, g: b.made("mul", g, b.made("mul", v, b.made("sub", 1.0, v)))),
    "erf": _each(
        lambda b, v, g: b.made(
            "mul", g, b.made("mul", 2 / math.sqrt(math.pi), b.made("exp", b.made("neg", _square(b, v.args[0]))))
        )
    ),
    "minimum": _extreme,
    "maximum": _extreme,
    "fmod": _each(lambda b, v, g: g, lambda b, v, g: b.made("neg", b.made("mul", g, _quotient(b, *v.args)))),
    "less": _none,
    "less_equal": _none,
    "equal": _none,
    "where": lambda b, v, g: iter([(v.args[1], _where(b, v.args[0], g)), (v.args[2], _where(b, v.args[0], 0.0, g))]),
    "relu": _each(lambda b, v, g: _where(b, b.made("less_equal", v, 0.0), 0.0, g)),
    "root": _each(_root),
    "power": _power,
    "at_least": lambda b, v, g: iter([(v.args[0], _where(b, b.made("less_equal", v.args[1], v.args[0]), g))]),
    "at_most": lambda b, v, g: iter([(v.args[0], _where(b, b.made("less_equal", v.args[0], v.args[1]), g))]),
    "stop": _none,
    "sum": _each(lambda b, v, g: g),
    "max": _max,
}


def _quotient(b: Simplifying, left: Value, right: Value) -> Value:
    """The quotient without its fraction."""
    whole = b.made("div", left, right)
    return b.made("mul", b.made("sign", whole), b.made("floor", b.made("abs", whole)))


def _square(b: Simplifying, a: Value) -> Value:
    return b.made("mul", a, a)
