"""A drawn cell as a structure that prints itself as the class a user would write."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

LETTERS = {"K": "keys", "A": "a", "B": "b", "C": "c"}  # sizes of a cell besides I and H, by their option
TOLD = ("input", "context", "memory", "noise")
CODE = {"H": "self.hidden_size", "I": "self.input_size"} | {x: f'self.sizes["{name}"]' for x, name in LETTERS.items()}


@dataclass(frozen=True)
class Dim:
    """A width: a sum of multiples of letters, of their products (joined by *) and of ones (the letter "").

    A quotient of two letters (joined by /) stands as one.
    """

    terms: tuple[tuple[str, int], ...]

    @staticmethod
    def of(letter: str, count: int = 1) -> Dim:
        return Dim(((letter, count),))

    def __add__(self, other: Dim) -> Dim:
        counts = dict(self.terms)
        for letter, count in other.terms:
            counts[letter] = counts.get(letter, 0) + count
        return Dim(tuple(sorted(counts.items())))

    def times(self, n: int) -> Dim:
        return Dim(tuple((letter, n * count) for letter, count in self.terms))

    def __mul__(self, other: Dim) -> Dim:
        result = Dim(())
        for a, n in self.terms:
            for b, m in other.terms:
                result += Dim((("*".join(sorted(_factors(a) + _factors(b))), n * m),))
        return result

    def swap(self, old: str, new: str) -> Dim:
        """Return this width with another letter in place of one."""
        result = Dim(())
        for letter, count in self.terms:
            factors = sorted(new if factor == old else factor for factor in _factors(letter))
            result += Dim((("*".join(factors), count),))
        return result

    def value(self, sizes: Mapping[str, int]) -> int:
        return sum(
            count * math.prod(_number(factor, sizes) for factor in _factors(letter)) for letter, count in self.terms
        )

    def text(self) -> str:
        """Return it as a declaration has it."""
        return self._sum(lambda letter: letter)

    def code(self) -> str:
        """Return it as a step has it."""
        return self._sum(CODE.__getitem__)

    def _sum(self, shown: Callable[[str], str]) -> str:
        def factor(letters: str) -> str:
            above, *below = map(shown, letters.split("/"))
            return f"({above} // {below[0]})" if below else above

        return " + ".join(" * ".join([str(n)] * (n != 1 or not x) + [*map(factor, _factors(x))]) for x, n in self.terms)

    @property
    def letters(self) -> set[str]:
        return {letter for product, _ in self.terms for factor in _factors(product) for letter in factor.split("/")}


def _factors(product: str) -> list[str]:
    return product.split("*") if product else []


def _number(factor: str, sizes: Mapping[str, int]) -> int:
    above, *below = (sizes[letter] for letter in factor.split("/"))
    assert not below or above % below[0] == 0, f"{factor} of {sizes}"
    return above // below[0] if below else above


ONE, H, I, K = Dim.of(""), Dim.of("H"), Dim.of("I"), Dim.of("K")  # noqa: E741
HEADS, OF_HEAD = Dim.of("A"), Dim.of("H/A")  # where a cell has both, A heads share the H units


@dataclass(frozen=True)
class Kind:
    """What an expression is: a row, a mask, a vector, a matrix, or a grid (none or several axes); and how wide."""

    sort: str
    dims: tuple[Dim, ...]

    @property
    def dim(self) -> Dim:
        return self.dims[-1]


def row(dim: Dim) -> Kind:
    return Kind("row", (dim,))


def rows(*dims: Dim) -> Kind:
    """Return the kind of a row with these axes of features."""
    return Kind("row" if len(dims) == 1 else "grid", dims)


def mask(dim: Dim) -> Kind:
    return Kind("mask", (dim,))


@dataclass(frozen=True)
class Node:
    """An expression: a text with places {0}, {1} for its parts; `uses` names what it needs declared."""

    text: str
    kind: Kind
    parts: tuple[Node, ...] = ()
    uses: tuple[str, ...] = ()
    name: str = ""  # of a variable

    def code(self) -> str:
        return self.text.format(*(part.code() for part in self.parts)) if self.parts else self.text

    def walk(self) -> Iterator[Node]:
        yield self
        for part in self.parts:
            yield from part.walk()


def variable(name: str, kind: Kind) -> Node:
    return Node(name, kind, name=name)


@dataclass(frozen=True)
class Line:
    """A statement: makes the variables `targets`, or changes the variable `changes`."""

    text: str
    parts: tuple[Node, ...] = ()
    targets: tuple[str, ...] = ()
    changes: str = ""
    uses: tuple[str, ...] = ()

    def code(self) -> str:
        return self.text.format(*(_bare(part.code()) for part in self.parts))


@dataclass(frozen=True)
class Declared:
    """A name outside `step`; `text` says what it is.

    sort: param, bias, option, module, helper, method; input, which `step` takes; context, memory or noise.
    least: of a memory, how many rows a sequence has at least.
    """

    name: str
    sort: str
    text: str
    dims: tuple[Dim, ...] = ()
    least: int = 1


@dataclass(frozen=True)
class Drawn:
    """A cell: states by name with their kinds, statements, declarations, frozen parameters.

    after: the new values of the states, then those of the outputs.
    """

    states: tuple[tuple[str, Kind], ...]
    after: tuple[Node, ...]
    lines: tuple[Line, ...] = ()
    declared: tuple[Declared, ...] = ()
    frozen: tuple[str, ...] = ()
    options: tuple[tuple[str, object], ...] = field(default=())
    outputs: tuple[tuple[str, Dim], ...] = ()

    def used(self) -> tuple[tuple[Line, ...], tuple[Declared, ...]]:
        """Return the statements and declarations that the new states depend on."""
        wanted: set[str] = set()
        names: set[str] = set()
        kept: list[Line] = []

        def read(nodes: tuple[Node, ...]) -> None:
            for node in (n for whole in nodes for n in whole.walk()):
                names.update(node.uses)
                wanted.update((node.name,) if node.name else ())

        read(self.after)
        for line in reversed(self.lines):
            if wanted & {*line.targets, line.changes}:
                kept.append(line)
                names.update(line.uses)
                read(line.parts)
        wanted |= names
        return tuple(reversed(kept)), tuple(d for d in self.declared if d.name in wanted)

    @property
    def letters(self) -> list[str]:
        """Return the letters besides I and H that the cell has."""
        return sorted(self._declared_letters() | self._letters_read())

    def _declared_letters(self) -> set[str]:
        dims = [dim for _, kind in self.states for dim in kind.dims] + [dim for _, dim in self.outputs]
        dims += [dim for d in self.used()[1] for dim in d.dims if d.sort in ("param", "bias", *TOLD)]
        return set[str]().union(*(dim.letters for dim in dims)) & set(LETTERS)

    def _letters_read(self) -> set[str]:
        lines, declared = self.used()
        nodes = [n for whole in (*self.after, *(p for x in lines for p in x.parts)) for n in whole.walk()]
        texts = [*(n.text for n in nodes), *(x.text for x in lines), *(d.text for d in declared)]
        return {x for x in LETTERS if any(CODE[x] in text for text in texts)}

    @property
    def output_dim(self) -> Dim:
        """Return the width of the first output, which a cell above reads."""
        return self.outputs[0][1] if self.outputs else self.states[0][1].dim

    def told(self) -> tuple[Declared, ...]:
        """Return what the cell reads besides x, states and parameters."""
        return tuple(d for d in self.used()[1] if d.sort in TOLD)

    @property
    def has_heads(self) -> bool:
        """Whether A divides H."""
        return OF_HEAD.text() in self.source()

    @property
    def has_modules(self) -> bool:
        return any(d.sort == "module" for d in self.used()[1])

    def parameters(self) -> list[str]:
        """Return the names of the declared parameters and modules, which may be frozen."""
        return [d.name for d in self.used()[1] if d.sort in ("param", "bias", "module")]

    def local_names(self) -> list[str]:
        """Return the names that the step gives, except those that it gives again."""
        lines, _ = self.used()
        names = [name for line in lines for name in line.targets]
        return [name for name in names if names.count(name) == 1]

    def source(self) -> str:
        """Return the class, with what stands before it."""
        lines, declared = self.used()
        of = {
            sort: [d for d in declared if d.sort == sort] for sort in ("param", "option", "module", "helper", "method")
        }
        of["param"] = [d for d in declared if d.sort in ("param", "bias")]
        text = [d.text for d in of["helper"]]
        body = [d.text for d in of["option"]]
        body += [f"{name} = state({', '.join(dim.text() for dim in kind.dims)})" for name, kind in self.states]
        body += [f"{name} = output({dim.text()})" for name, dim in self.outputs]
        told = self.told()
        given = [d for d in told if d.sort == "input"]
        if given:
            body.append(f"x, {', '.join(d.name for d in given)} = inputs(I, {', '.join(d.text for d in given)})")
        body += [f"{d.name} = {d.text}" for d in told if d.sort != "input"]
        body += [f"{d.name} = {d.text}" for d in of["param"]]
        body += [f"only_{LETTERS[x]} = param({x})" for x in sorted(self._letters_read() - self._declared_letters())]
        if of["module"]:
            made = "".join(f"\n    self.{d.name} = {d.text}" for d in of["module"])
            body.append(f"\ndef __init__(self, *args, **kwargs):\n    super().__init__(*args, **kwargs){made}")
        body += [f"\n{d.text}" for d in of["method"]]
        step = [line.code() for line in lines]
        step.append("return " + ", ".join(_bare(node.code()) for node in self.after))
        taken = ", ".join(["x", *(d.name for d in given), *(n for n, _ in self.states)])
        body.append(f"\ndef step(self, {taken}):\n" + _indent("\n".join(step)))
        head = "".join(f"{x} = size('{LETTERS[x]}')\n" for x in self.letters)
        head += "slots = size('slots')\n" * any(d.sort == "memory" for d in told)
        return "\n\n".join([*text, f"{head}class Drawn(Cell):\n" + _indent("\n".join(body))]) + "\n"


def _indent(text: str) -> str:
    return re.sub(r"(?m)^(?=.)", "    ", text)


def _bare(code: str) -> str:
    """Return the expression without brackets around the whole of it."""
    if not (code.startswith("(") and code.endswith(")")):
        return code
    depth = 0
    for i, c in enumerate(code):
        depth += (c == "(") - (c == ")")
        if depth == 0 and i < len(code) - 1:
            return code
    inner = code[1:-1]
    return inner if not re.search(r"(?<![=<>!])=(?!=)", inner) and "," not in _top(inner) else code


def _top(code: str) -> str:
    depth, kept = 0, ""
    for c in code:
        depth -= c in ")]"
        kept += c if depth == 0 else ""
        depth += c in "(["
    return kept
