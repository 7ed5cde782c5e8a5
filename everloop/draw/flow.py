"""The data flow of a cell as a textbook draws it: gates, element-wise circles, states in and out.

A compiled graph has a node for every addition and slice. Here all that is linear before an activation is one gate, with
the inputs it multiplies; a normalisation is one mark; what is left is element by element.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Literal

from everloop.cell import Cell
from everloop.compiler.equations import EquationWriter
from everloop.compiler.ir import Graph, Value, walk
from everloop.compiler.operations import OPERATIONS
from everloop.compiler.trace import named_outputs, trace
from everloop.errors import CellError
from everloop.layers.explanation import example_call

Role = Literal["input", "state", "new", "output", "gate", "linear", "map", "join"]
SIGNS = {
    "add": "+",
    "mul": "×",
    "sub": "−",
    "div": "÷",
    "sigmoid": "σ",
    "neg": "−",
    "at_least": "max",
    "at_most": "min",
}
SIGNS |= {"power": "^", "less": "<", "less_equal": "≤", "equal": "=", "root": "sqrt"}
THROUGH = ("cast", "stop", "slice", "transpose", "view")  # what a line runs through without a node
LINEAR = ("add", "sub", "neg", "mul", "div", "linear", "matmul", "slice", "view", "cat", "cast")

LONGEST = 28  # characters of a formula in a circle


@dataclass
class Node:
    """What is drawn at one place.

    sign: what it computes; name: what the cell calls it; time: t or t−1 of what is read and written; note: small print;
    reads: how many numbers come in or out, of inputs and states; equation: what a pointer shows.
    """

    role: Role
    sign: str = ""
    name: str = ""
    time: str = ""
    note: str = ""
    size: int = 0
    equation: str = ""


@dataclass
class Flow:
    """Nodes by number, and for each the numbers of those it leads to."""

    name: str
    nodes: dict[int, Node] = field(default_factory=dict)
    edges: dict[int, list[int]] = field(default_factory=dict)

    def add(self, node: Node) -> int:
        number = len(self.nodes)
        self.nodes[number], self.edges[number] = node, []
        return number

    def link(self, source: int, target: int) -> None:
        if target not in self.edges[source]:
            self.edges[source].append(target)

    def of(self, *roles: Role) -> list[int]:
        """Return the numbers of the nodes of some roles."""
        return [number for number, node in self.nodes.items() if node.role in roles]

    def into(self, target: int) -> list[int]:
        """Return the numbers of the nodes that lead to one."""
        return [number for number, targets in self.edges.items() if target in targets]


@dataclass(frozen=True)
class Sum:
    """What a linear value is made of: rows times matrices, rows as they are, names of parameters."""

    products: tuple[Value, ...] = ()
    rows: tuple[Value, ...] = ()
    params: tuple[str, ...] = ()
    is_normed: bool = False

    def __add__(self, other: Sum) -> Sum:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        products, rows, params, _ = (tuple(dict.fromkeys((*a, *b))) if isinstance(a, tuple) else a for a, b in pairs)
        return Sum(products, rows, params, self.is_normed or other.is_normed)


def flow_of(cell: Cell) -> Flow:
    """Return the data flow of a cell in evaluation, without the noise of training.

    Raises:
        CellError: it is no cell.
        UnsupportedError: the compiler cannot read the step; the message names the operation and its line.
    """
    if not isinstance(cell, Cell):
        came = cell.__name__ if isinstance(cell, type) else type(cell).__name__
        raise CellError(f"a figure of a cell: got {came}; expected an instance of Cell, such as cells.LSTM(3, 4)")
    cell = deepcopy(cell).eval()
    x, given = example_call(cell)
    graph = named_outputs(trace(cell, given.fixed, given.rows, given.steps, x.dtype, names=True), cell)
    return _Reader(type(cell).__name__, graph, cell).flow


class _Inline(EquationWriter):
    """Writes a value out of inputs alone, as figures write products and gates."""

    def read(self, value: Value) -> tuple[str, int]:
        return self.expression(value)

    def template(self, value: Value) -> str:
        return {"sigmoid": "σ({0})", "mul": "{0} {1}", "sub": "{0} − {1}"}.get(value.op, super().template(value))


class _Reader:
    def __init__(self, name: str, graph: Graph, cell: Cell) -> None:
        self.graph, self.writer, self.inline = graph, EquationWriter(graph), _Inline(graph)
        self.flow, self.done = Flow(name), dict[Value, int]()
        self.order = {value: n for n, value in enumerate(graph.values)}
        self.bases = _normalised(graph)
        inputs = {(v.group, v.name): v for v in graph.inputs}
        for state, size in cell.state_sizes.items():
            node = self.flow.add(Node("state", name=state, time="t−1", size=size))
            if ("state", state) in inputs:
                self.done[inputs["state", state]] = node
        node = self.flow.add(Node("input", name="x", time="t", size=cell.input_size))
        if ("x", "x") in inputs:
            self.done[inputs["x", "x"]] = node
        sizes = cell.state_sizes | cell.output_sizes
        for name, value in graph.outputs.items():
            source = self.visit(value)
            role: Role = "new" if name in cell.state_sizes else "output"
            target = self.flow.add(Node(role, name=name, time="t", size=sizes[name]))
            self.flow.link(source, target)
        self._join()

    def visit(self, value: Value) -> int:
        """Return the node of a row."""
        value = _unspread(value)
        if value not in self.done:
            self.done[value] = self._made(value)
        return self.done[value]

    def _made(self, value: Value) -> int:
        if value.op in THROUGH and is_row(value.args[0]) and not self._is_linear(self.linear(value)):
            return self.visit(value.args[0])
        if value.op == "input" or not is_row(value):
            return self.flow.add(Node("input", name=self.writer.leaf(value) if value.op == "input" else "constant"))
        if value in self.bases:
            base, sign = self.bases[value]
            return self._node("map", value, [base], sign)
        if len(value.args) == 1 and value.kind == "map" and value.op != "neg":
            inside = self.linear(value.args[0])
            if self._is_linear(inside):
                return self._gate(value, inside)
        if value.op in ("add", "sub", "linear", "matmul", "slice", "cat"):
            return self._sum(value)
        if value.op == "mul":
            factors = list(self._factors(value))
            fixed = [f for f in factors if not is_row(f)]
            rows = [f for f in factors if is_row(f)]
            shown = " ".join(map(self._fixed, fixed))
            return self._node(
                "map", value, rows, "×" if len(rows) > 1 else f"× {shown}", note=shown if len(rows) > 1 else ""
            )
        return self._node("map", value, [a for a in value.args if is_row(a)], self._sign(value))

    def _sign(self, value: Value) -> str:
        sign = SIGNS.get(value.op, value.op)
        fixed = [(place, self._fixed(a, tight=9)) for place, a in enumerate(value.args) if not is_row(a)]
        if len(fixed) != 1 or len(value.args) != 2:
            return sign
        ((place, shown),) = fixed
        return f"{shown} {sign}" if place == 0 else f"{sign} {shown}"

    def _fixed(self, value: Value, tight: int = OPERATIONS["mul"].binding) -> str:
        """Return what no input changes: a number, the name of parameters, or what is made of them.

        What binds less than `tight` stands in brackets.
        """
        if value.op == "constant":
            return self.writer.number(value.number)
        inside = list(walk([value]))
        names = [v.name for v in inside if v.op == "input" and v.group != "literal"]
        if not names:
            return "constant"
        if all(v.op in ("input", "call", *THROUGH) for v in inside):
            return " ".join(names)
        shown, binding = self.inline.read(value)
        if len(shown) > LONGEST:
            return f"f({', '.join(names)})"
        return f"({shown})" if binding < tight else shown

    def _gate(self, value: Value, inside: Sum) -> int:
        name = self._name(value) or self._name(value.args[0])
        return self._multiplied("gate", value, inside, SIGNS.get(value.op, value.op), name)

    def _multiplied(self, role: Role, value: Value, inside: Sum, sign: str, name: str) -> int:
        note = "norm" if inside.is_normed else ""
        number = self._node(role, value, [*inside.products, *inside.rows], sign, name=name, note=note)
        self.flow.nodes[number].equation += f"   ({', '.join(inside.params)})" if inside.params else ""
        return number

    def _sum(self, value: Value) -> int:
        whole = self.linear(value)
        if value.op not in ("add", "sub"):
            if self._is_linear(whole):
                return self._linear_node(value, whole)
            return self._node("map", value, [a for a in value.args if is_row(a)], "[ , ]")
        if value.op == "sub" and not is_row(value.args[0]) and not self._is_linear(whole):
            return self._node("map", value, [value.args[1]], self._sign(value))
        terms = list(self._terms(value, 1))
        dense = [(s, t) for s, t in terms if is_row(t) and self.linear(t).products]
        if dense and all(t in [d for _, d in dense] or not is_row(t) for _, t in terms):
            return self._linear_node(value, sum(map(self.linear, (t for _, t in terms)), Sum()))
        sources = [t for _, t in terms if is_row(t)]
        fixed = [self._fixed(t) for _, t in terms if not is_row(t)]
        if len(sources) == 1:
            return self._node("map", value, sources, f"{'−' if terms[0][0] < 0 else ''}+ {' '.join(fixed)}")
        number = self._node("map", value, sources, "+" if all(s > 0 for s, _ in terms) else "±", note=" ".join(fixed))
        if len(terms) == 2 and terms[1][0] < 0:
            self.flow.nodes[number].sign = "−"
        return number

    def _linear_node(self, value: Value, whole: Sum) -> int:
        matrices = [v.name for v in walk([value]) if v.op == "input" and v.group == "fixed" and v.type.kind == "matrix"]
        own = [name for name in matrices if name in whole.params]
        return self._multiplied("linear", value, whole, " ".join(dict.fromkeys(own)) or "·", self._name(value))

    def _terms(self, value: Value, sign: int) -> list[tuple[int, Value]]:
        """Return the terms of a sum with their signs; a sum that something else reads, or that has a name, is one."""
        if value.op not in ("add", "sub"):
            return [(sign, value)]
        found: list[tuple[int, Value]] = []
        for arg, s in zip(value.args, (sign, sign if value.op == "add" else -sign), strict=True):
            found += self._terms(arg, s) if self._is_inner(arg) else [(s, arg)]
        return found

    def _factors(self, value: Value) -> list[Value]:
        if value.op != "mul":
            return [value]
        return [f for a in value.args for f in (self._factors(a) if self._is_inner(a) else [a])]

    def _is_inner(self, value: Value) -> bool:
        is_read_once = len(self.writer.readers[value]) == 1
        return is_read_once and value not in self.graph.names and value not in self.graph.outputs.values()

    def linear(self, value: Value) -> Sum:
        """Return what a value is made of by matrices, sums and parameters alone."""
        value = _unspread(value)
        if not is_row(value):
            inputs = (v.name for v in walk([value]) if v.op == "input" and v.group == "fixed")
            return Sum(params=tuple(inputs))
        if value in self.bases and self._is_linear(self.linear(self.bases[value][0])):
            return self.linear(self.bases[value][0]) + Sum(is_normed=True)
        if value.op in ("linear", "matmul"):
            row, matrix = value.args
            parts = row.args if row.op == "cat" else (row,)
            return Sum(products=tuple(p for p in parts if is_row(p))) + self.linear(matrix)
        if value.op in ("mul", "div") and all(is_row(a) for a in value.args):
            return Sum(rows=(value,))
        if value in self.graph.outputs.values() or value.op not in LINEAR:
            return Sum(rows=(value,))
        found = Sum()
        for arg in value.args:
            found += self.linear(arg)
        if value.op in ("slice", "view", "cat", "cast") and not self._is_linear(found):
            return Sum(rows=(value,))
        return found

    @staticmethod
    def _is_linear(found: Sum) -> bool:
        return bool(found.products or found.params)

    def _name(self, value: Value) -> str:
        return "" if value in self.graph.outputs.values() else self.graph.names.get(value, "")

    def _node(
        self, role: Role, value: Value, sources: list[Value], sign: str, *, name: str | None = None, note: str = ""
    ) -> int:
        numbers = [self.visit(source) for source in sources]
        name = self._name(value) if name is None else name
        number = self.flow.add(Node(role, sign, name, note=note, equation=self.writer.expression(value)[0]))
        for source in numbers:
            self.flow.link(source, number)
        return number

    def _join(self) -> None:
        """Lead the rows that several gates multiply, such as x and h, to them as one line."""
        flow = self.flow
        outer = set(flow.of("input", "state"))
        groups: dict[tuple[int, ...], list[int]] = {}
        for value, number in self.done.items():
            if flow.nodes[number].role in ("gate", "linear"):
                inside = self.linear(value.args[0] if flow.nodes[number].role == "gate" else value)
                rows = tuple(sorted({self.visit(r) for r in inside.products} & outer))
                groups.setdefault(rows, []).append(number)
        for rows, targets in groups.items():
            if len(rows) > 1 and len(targets) > 1:
                join = flow.add(Node("join", equation=f"[{', '.join(flow.nodes[r].name for r in rows)}]"))
                for row in rows:
                    flow.edges[row] = [t for t in flow.edges[row] if t not in targets]
                    flow.link(row, join)
                flow.edges[join] = list(targets)


def is_row(value: Value) -> bool:
    """Return whether a value differs from sequence to sequence; a number spread over rows does not."""
    return value.type.rows and value.op != "constant"


def _unspread(value: Value) -> Value:
    """Return a row without the zeros that only spread it over more features."""
    if value.op == "add" and any(a.op == "constant" and a.number == 0 for a in value.args):
        return value.args[value.args[0].op == "constant"]
    return value


def _normalised(graph: Graph) -> dict[Value, tuple[Value, str]]:
    """Return what is made of one row alone with a sum or maximum over its features, with that row and a name."""
    found: dict[Value, tuple[Value, str]] = {}
    above: dict[Value, set[Value]] = {}
    order = {value: n for n, value in enumerate(graph.values)}
    for value in graph.values:
        if not is_row(value):
            continue
        rows = [a for a in value.args if is_row(a)]
        common = set.intersection(*(above[a] for a in rows)) if rows else set[Value]()
        above[value] = common | {value}
        if len(rows) < 2 or not common:
            continue
        base = max(common, key=order.__getitem__)
        ops = {v.op for v in _between(value, base)} | {base.op} & {"exp"}
        inner = base.args[0] if base.op == "exp" else base
        base = found[inner][0] if inner in found else base  # a mean, or the maximum, has been subtracted before
        if ops & {"sum", "max"} and not ops & {"linear", "matmul", "sigmoid", "tanh"}:
            found[value] = (base, "softmax" if "exp" in ops else "norm")
    return found


def _between(value: Value, base: Value) -> set[Value]:
    """Return the rows on the ways from `base` to `value`, without these two."""
    found: set[Value] = set()
    waiting = [a for a in value.args if is_row(a)]
    while waiting:
        each = waiting.pop()
        if each is not base and each not in found:
            found.add(each)
            waiting += [a for a in each.args if is_row(a)]
    return found
