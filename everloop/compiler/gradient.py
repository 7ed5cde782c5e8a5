"""Differentiate: the gradient of a step. The rules of the table are applied from the results back to the leaves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from everloop.compiler import backwards, sums
from everloop.compiler.expression import Expression
from everloop.compiler.ir import Graph, Type, Value, walk
from everloop.compiler.rewrite import Depends, same
from everloop.compiler.rules import Simplifying
from everloop.compiler.view import View, apart, tiled

Term = tuple[int, int, Value]  # first feature, the one behind the last, and the gradient of these


def sequence_of(name: str) -> str:
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
    graph: its outputs are "d(NAME)" for each state and each loop input that is not a matrix.
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
    wanted:  the loop inputs whose gradient is asked for.
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
    reverse, dtype = _Reverse(b, matters, forward), loop.dtype
    for name, value in loop.outputs.items():
        carried = b.make("input", data=("state", gradient_of(name)), type=value.type.of(dtype))
        result.cotangents.append(carried)
        reverse.add(moved[value], carried)
        if name in exposed:
            given = b.make("input", data=("sequence", gradient_of(sequence_of(name))), type=value.type.of(dtype))
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
        self.terms: dict[Value, list[Term]] = defaultdict(list)
        self.views: dict[Value, list[tuple[View, Value]]] = defaultdict(list)
        self.pairs: dict[Value, list[tuple[Value, Value]]] = defaultdict(list)

    def add(self, value: Value, term: Value, start: int = 0, stop: int | None = None) -> None:
        if self.matters(value):
            self.terms[value].append((start, value.width if stop is None else stop, term))

    def total(self, value: Value) -> Value:
        """Return the gradient of `value`, a row of its width."""
        self._join_views(value)
        b, terms = self.b, self.terms[value]
        if not terms:
            return b.constant(0.0, Type((value.width,), rows=True))
        if value.width == 1 and len(terms) > 1:
            terms = [(0, 1, number) for number in sums.together(b, [g for _, _, g in terms], self.level)]
        edges = sorted({0, value.width, *(e for start, stop, _ in terms for e in (start, stop))})
        rows = _side_by_side(terms, value.width)
        if len(rows) > 1 and all(len(row) < len(edges) - 1 for row in rows):
            terms = [(0, value.width, b.joined([g for _, _, g in row])) for row in rows]
            edges = [0, value.width]
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
        return b.joined(segments)

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
        if value.op in ("input", "constant") or not (value in self.terms or value in self.views):
            return
        self.b.line = value.where
        if value.op == "slice":
            self._slice(value)
            return
        g = self.total(value)
        if value.kind == "product":
            self._product(value, g)
        elif value.op == "replaced":
            self._replaced(value, g)
        elif value.op == "view":
            self._view(value, g)
        elif value.kind == "reduce" and value.data:
            self._reduce(value, g)
        elif value.op == "cat":
            at = 0
            for arg in value.args:
                self.add(arg, self.b.part(g, at, at + arg.width))
                at += arg.width
        else:
            for arg, term in terms(self.b, value, g):
                if self.matters(arg):
                    self.add(arg, sums.total(self.b, term) if term.width > arg.width else term)

    def _replaced(self, value: Value, g: Value) -> None:
        """What the text says of g gets each target."""

        def make(op: str, args: list[Value], data: list[Any], shape: tuple[int, ...]) -> Value:
            if op == "constant":
                return self.b.constant(data[0], Type(shape))
            made = self.b.make(op, *args, data=tuple(data))
            return self.b.local(made, made.args)

        (text,), count = value.data, backwards.targets_of(value.data[0])
        read = value.args[1 + count :]
        for arg, term in zip(value.args[1:], backwards.gradients(text, g, read, make), strict=False):
            self.add(arg, sums.total(self.b, term) if term.width > arg.width else term)

    def _slice(self, value: Value) -> None:
        """A slice of a slice ends at the value that is no slice."""
        start = value.data[0]
        self.add(value.args[0], self.total(value), start, start + value.width)

    def _view(self, value: Value, g: Value) -> None:
        """A feature gets the gradients of all that view it."""
        if self.matters(value.args[0]):
            self.views[value.args[0]].append((View.of(value.data), g))

    def _join_views(self, value: Value) -> None:
        """Views that take each feature once between them give one term, such as a permutation; others a sum each."""
        waiting = sorted(self.views.pop(value, []), key=lambda each: each[0].offset)
        while waiting:
            numbers = apart([view for view, _ in waiting], value.width) or [0]
            views, gradients = zip(*(waiting[n] for n in numbers), strict=True)
            waiting = [each for n, each in enumerate(waiting) if n not in numbers]
            back = tiled(views, value.width)
            if back is not None:
                joined = self.b.make("cat", *gradients) if len(gradients) > 1 else gradients[0]
                self.add(value, self.b.view(joined, back))
                continue
            for view, g in zip(views, gradients, strict=True):
                self.add(value, self.b.reduce("sum", g, value.width, view))

    def _reduce(self, value: Value, g: Value) -> None:
        """The rule of the operation, for each feature of the result; a maximum that several reach is shared by them."""
        (arg,), (width, *numbers) = value.args, value.data
        b, view = self.b, View.of(numbers)
        spread = b.view(g, view)
        if value.op == "max":
            is_top = b.made("equal", arg, b.view(value, view))
            spread = b.made("mul", is_top, b.view(b.made("div", g, b.reduce("sum", is_top, width, view)), view))
        self.add(arg, spread)

    def _product(self, value: Value, g: Value) -> None:
        row, matrix = value.args
        if self.matters(row):
            self.add(row, self.b.make("matmul" if value.op == "linear" else "linear", g, matrix))
        if self.matters(matrix):
            self.pairs[matrix].append((g, row) if value.op == "linear" else (row, g))


def _side_by_side(terms: list[Term], width: int) -> list[list[Term]]:
    """Return terms as rows of such as lie side by side, as shifts of a row give them; nothing where some are left over.

    Cut up at each other's edges, there would be more of them at every shift more.
    """
    waiting, rows = list(terms), []
    while waiting:
        row, at = list[Term](), 0
        while at < width:
            found = next((term for term in waiting if term[0] == at and term[1] - at == term[2].width), None)
            if found is None:
                return []
            waiting.remove(found)
            row.append(found)
            at = found[1]
        rows.append(row)
    return rows


def terms(b: Simplifying, value: Value, g: Value) -> Iterator[tuple[Value, Value]]:
    """Yield (argument, its term of the gradient) of an element-wise value or a sum over features with gradient `g`."""
    rule = value.operation.gradient
    assert rule, f"{value.op} has no gradient"
    found = rule(*(Expression(b.made, each) for each in (g, value, *value.args)))
    for arg, term in zip(value.args, found if isinstance(found, tuple) else (found,), strict=False):
        if term is not None:
            yield arg, term.value
