"""A graph as equations: plain text, LaTeX, Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from everloop.compiler.ir import Graph, Value
from everloop.compiler.rewrite import users
from everloop.compiler.view import View, contiguous

GREEK = re.compile("alpha|beta|gamma|delta|epsilon|z?eta|theta|kappa|lambda|[mn]u|[xp]i|rho|sigma|tau|[pc]hi|psi|omega")


def text(graph: Graph) -> str:
    """Return one equation a line. A state of the step before is NAME[t-1]."""
    return "\n".join(f"{left} = {right}" for left, right in EquationWriter(graph).equations())


def latex(graph: Graph) -> str:
    """Return the equations as an `aligned` block."""
    lines = [rf"{left} &= {right} \\" for left, right in Latex(graph).equations()]
    return "\n".join([r"\begin{aligned}", *lines, r"\end{aligned}"])


def markdown(graph: Graph) -> str:
    """Return the equations as a block of Markdown mathematics."""
    return f"$$\n{latex(graph)}\n$$"


FORMS = {"text": text, "latex": latex, "markdown": markdown}


class EquationWriter:
    """Decides which values get a line and a name; the others stand where they are read."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.values = graph.values
        self.readers = users(graph.outputs.values())
        self.splits = {v: found for v in self.values if (found := self._split(v))}
        self.names = self._names()

    # Names
    def _split(self, value: Value) -> list[Value]:
        """Return the named parts of a value that is only read in parts, which follow each other."""
        readers = list(dict.fromkeys(self.readers[value]))
        if value.kind == "input" or len(readers) < 2 or any(r.op != "slice" for r in readers):
            return []
        parts = sorted(readers, key=lambda r: r.data)
        whole = parts[0].data[0] == 0 and parts[-1].data[1] == value.width
        if not whole or any(a.data[1] != b.data[0] for a, b in pairwise(parts)):
            return []
        return parts if all(p in self.graph.names for p in parts) else []

    def _names(self) -> dict[Value, str]:
        names: dict[Value, str] = {v: name for name, v in reversed(self.graph.outputs.items()) if v.op != "input"}
        taken = set(names.values()) | {self.leaf(v) for v in self.values if v.op == "input"}
        parts = {p for found in self.splits.values() for p in found}
        count = 0
        for value in reversed(self.values):
            if value in names or value.op in ("input", "constant"):
                continue
            several = len(self.readers[value]) > 1 and value.kind != "layout" and value not in self.splits
            if value in self.graph.names or value in parts:
                name = self.graph.names[value]
                while name in taken:
                    name += "'"
            elif several:
                count += 1
                name = f"v{count}?"
            else:
                continue
            taken.add(name)
            names[value] = name
        number = 0
        for value in self.values:  # numbered in the order of reading
            if names.get(value, "").endswith("?"):
                number += 1
                names[value] = f"v{number}"
        return names

    # Lines
    def equations(self) -> Iterator[tuple[str, str]]:
        """Yield (left side, right side)."""
        written: set[Value] = set()
        for value in self.values:
            whole = value.args[0] if value.op == "slice" else None
            if whole in self.splits:
                if whole not in written and whole is not None:
                    written.add(whole)
                    yield self.tuple([self.name(p) for p in self.splits[whole]]), self.expression(whole)[0]
            elif value in self.names:
                yield self.name(value), self.expression(value)[0]
        for name, value in self.graph.outputs.items():
            if self.names.get(value) != name:
                yield self.decorated(name), self.read(value)[0]

    def read(self, value: Value) -> tuple[str, int]:
        """Return a value as it stands inside another's equation, and how tightly it binds."""
        return (self.name(value), 9) if value in self.names else self.expression(value)

    def expression(self, value: Value) -> tuple[str, int]:
        """Return the right side of a value's equation."""
        if value.op == "input":
            return self.leaf(value), 9
        if value.op == "constant":
            return self.number(value.number), 9 if value.number >= 0 else 5
        averaged = mean_of(value)
        if averaged is not None:
            return self.mean(self.read(averaged)[0]), 9
        row, binding = value.operation, self.binding(value)
        args = []
        for place, arg in enumerate(value.args):
            shown, inner = self.read(arg)
            last = place > 0 and inner == binding and (not row.commutes or arg.op != value.op)
            mixed = {value.kind, arg.kind} == {"map", "product"} and arg.operation.binding == row.binding
            loose = binding < 9 and (inner < binding or last or (mixed and arg not in self.names))
            args.append(self.brackets(shown) if loose else shown)
        return self.template(value).format(*args, data=self.data(value), all=", ".join(args)), row.binding

    # What differs between the forms
    def binding(self, value: Value) -> int:
        return value.operation.binding

    def template(self, value: Value) -> str:
        return value.operation.text

    def brackets(self, shown: str) -> str:
        return f"({shown})"

    def mean(self, shown: str) -> str:
        return f"mean({shown})"

    def number(self, value: float) -> str:
        return number(value)

    def tuple(self, names: list[str]) -> str:
        return ", ".join(names)

    def name(self, value: Value) -> str:
        return self.decorated(self.names[value])

    def decorated(self, name: str) -> str:
        return name

    def data(self, value: Value) -> str:
        if value.op == "view":
            return index_text(View.of(value.data))
        if value.kind == "reduce":
            return f", {summed_text(View.of(value.data[1:]))}" if value.data else ""
        return ":".join(map(str, value.data))

    def leaf(self, value: Value) -> str:
        if value.group == "literal":
            return "constant"
        return f"{value.name}[t-1]" if value.group == "state" and not value.name.startswith("d(") else value.name


class Latex(EquationWriter):
    """The same as LaTeX."""

    def template(self, value: Value) -> str:
        return value.operation.latex

    def binding(self, value: Value) -> int:
        row = value.operation
        return row.binding if row.latex_binding is None else row.latex_binding

    def brackets(self, shown: str) -> str:
        return rf"\left({shown}\right)"

    def mean(self, shown: str) -> str:
        return rf"\operatorname{{mean}}\left({shown}\right)"

    def number(self, value: float) -> str:
        return power_of_ten(value)

    def tuple(self, names: list[str]) -> str:
        return rf"\left[{', '.join(names)}\right]"

    def decorated(self, name: str) -> str:
        of_now = name in self.graph.outputs and "(" not in name and " " not in name
        return at_time(symbol(name), "t") if of_now else symbol(name)

    def leaf(self, value: Value) -> str:
        if value.group == "literal":
            return r"\mathrm{constant}"
        if value.group == "state" and not value.name.startswith("d("):
            return at_time(symbol(value.name), "t-1")
        is_bare = value.group in ("x", "steps") and not value.name.endswith("]")
        return at_time(symbol(value.name), "t") if is_bare else symbol(value.name)


def symbol(name: str) -> str:
    """Return a name as LaTeX: p_i, gain_h, a gradient d(h), a sequence h[t-1]."""
    if name.startswith("d(") and name.endswith(")"):
        return rf"\partial {symbol(name[2:-1])}"
    at = re.fullmatch(r"(.*)\[(t(?:-1)?)\]", name)
    if at:
        return f"{symbol(at[1])}_{{{at[2]}}}"
    primes = len(name) - len(name.rstrip("'"))
    bare = name.rstrip("'")
    stem, _, below = bare.rstrip("_").partition("_")
    short = stem if len(stem) == 1 else f"\\{stem}" if GREEK.fullmatch(stem) else None
    numbered = re.fullmatch(r"([a-z])(\d+)", stem)
    if numbered and not below:
        short, below = numbered[1], numbered[2]
    shown = short or rf"\mathrm{{{stem}}}".replace("_", r"\_").replace(" ", r"\ ")
    for _ in range(len(bare) - len(bare.rstrip("_"))):  # f_ is another name than f
        shown = rf"\underline{{{shown}}}"
    tail = below if len(below) == 1 else rf"{{\mathrm{{{below}}}}}".replace("_", r"\_") if below else ""
    return shown + "'" * primes + (f"_{tail}" if below else "")


def at_time(shown: str, time: str) -> str:
    """Return a symbol with the time below it, behind what is there already."""
    stem, _, below = shown.partition("_")
    inside = f"{below.removeprefix('{').removesuffix('}')}, {time}" if below else time
    return f"{stem}_t" if inside == "t" else f"{stem}_{{{inside}}}"


def index_text(view: View) -> str:
    """Return a view as an index: `:, None` where it only repeats features, the axes and their strides otherwise."""
    moving = [axis for axis in view.axes if axis[1]]
    if not view.offset and [step for _, step in moving] == list(contiguous([n for n, _ in moving])):
        return ", ".join(":" if step else "None" for _, step in view.axes)
    return f"{view.offset} + " + ", ".join(f"{n} by {step}" for n, step in view.axes)


def summed_text(view: View) -> str:
    """Return over which axes, of those that a reduction tells apart, it goes."""
    shape = " x ".join(str(n) for n, _ in view.axes)
    return f"axis {' and '.join(str(k) for k, (_, step) in enumerate(view.axes) if not step)} of {shape}"


def mean_of(value: Value) -> Value | None:
    """Return the row whose mean over features this is, if it is one."""
    if value.op == "mul" and value.args[0].op == "sum" and not value.args[0].data and value.args[1].op == "constant":
        row = value.args[0].args[0]
        return row if value.args[1].number == 1 / row.width else None
    return None


def number(value: float) -> str:
    """Return a constant as short as it is exact enough to read."""
    return f"{value:g}"


def power_of_ten(value: float) -> str:
    """Return a constant as LaTeX."""
    mantissa, _, exponent = f"{value:g}".partition("e")
    if not exponent:
        return mantissa
    ten = f"10^{{{int(exponent)}}}"
    return ten if mantissa == "1" else rf"{mantissa} \cdot {ten}"
