"""What is at hand while a cell is drawn: chance, the rows in scope, and what has been declared."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from tests.random_cells.source import (
    HEADS,
    OF_HEAD,
    ONE,
    Declared,
    Dim,
    H,
    I,
    K,
    Kind,
    Line,
    Node,
    mask,
    row,
    rows,
    variable,
)

T = TypeVar("T")


class Draw:
    """The cell so far. Every choice comes from one seeded source of chance."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.x = variable("x", row(I))
        self.scope: list[Node] = [self.x]
        self.lines: list[Line] = []
        self.declared: list[Declared] = []
        self.states: list[tuple[str, Kind]] = []
        self.outputs: list[tuple[str, Dim]] = []
        self.options: dict[str, object] = {}
        self.taken: dict[str, int] = {}
        self.axes = [Dim.of("A"), Dim.of("B"), *([Dim.of("C")] if self.chance(0.4) else [])]
        self.has_heads = self.chance(0.2)
        self.dims = [H, H, I, ONE, *([K] if self.chance(0.5) else [])]

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def any(self, things: Sequence[T]) -> T:
        return things[self.rng.randrange(len(things))]

    def name(self, prefix: str) -> str:
        n = self.taken[prefix] = self.taken.get(prefix, 0) + 1
        return prefix if n == 1 and prefix not in ("x", "self") else f"{prefix}{n}"

    def dim(self) -> Dim:
        return self.any(self.dims)

    def axis(self) -> Dim:
        """Return the width of an axis of a grid."""
        if self.has_heads and self.chance(0.5):
            return self.any([HEADS, OF_HEAD, OF_HEAD])
        return self.any([*self.axes * 5, ONE, ONE, Dim.of("", 2), Dim.of("", 3)])

    def state(self, prefix: str, *dims: Dim) -> Node:
        found = variable(self.name(prefix), rows(*dims))
        self.states.append((found.name, found.kind))
        self.scope.append(found)
        return found

    def param(self, *dims: Dim, prefix: str = "", init: str = "", sort: str = "param", again: float = 0.1) -> Node:
        """Return a parameter of this shape: mostly a new one, sometimes one that is there already."""
        kind = Kind(["number", "vector", "matrix", "cube"][len(dims)], dims)
        same = [d for d in self.declared if d.dims == dims and d.sort in ("param", "bias") and f"init={init}" in d.text]
        if not init:
            same = [d for d in self.declared if d.dims == dims and d.sort in ("param", "bias")]
        if same and self.chance(again):
            found = self.any(same).name
        else:
            found = self.name(prefix or {0: "s", 1: "b", 2: "W", 3: "P"}[len(dims)])
            shape = [dim.text() for dim in dims] + ([f"init={init}"] if init else [])
            self.declared.append(Declared(found, sort, f"{sort}({', '.join(shape)})", dims))
        return Node(f"self.{found}", kind, uses=(found,))

    def vector(self, dim: Dim) -> Node:
        """Return a vector of parameters, sometimes after a function of it."""
        v = self.param(dim, prefix=self.any(["b", "p", "g", "a"]), init=self.any(["", "", "", "1.0", "0.3"]))
        form = self.any(
            ["{0}"] * 6
            + ["torch.sigmoid({0})", "torch.exp(-{0}.abs())", "F.softplus({0})", "{0}.clamp(-1, 1)", "{0}.tanh()"]
        )
        return v if form == "{0}" else Node(form, v.kind, (v,))

    def option(self, prefix: str, note: str, default: str, chosen: object) -> str:
        found = self.name(prefix)
        self.declared.append(Declared(found, "option", f"{found}: {note} = {default}"))
        self.options[found] = chosen
        return found

    def module(self, prefix: str, text: str, dims: tuple[Dim, ...]) -> str:
        found = self.name(prefix)
        self.declared.append(Declared(found, "module", text, dims))
        return found

    def function(self, sort: str, text: str) -> str:
        """Declare a helper before the class or a method of it, once; its name stands after "def "."""
        found = text.split("(")[0].removeprefix("@staticmethod\n").removeprefix("def ")
        if all(d.name != found for d in self.declared):
            self.declared.append(Declared(found, sort, text))
        return found

    def let(self, node: Node, prefix: str = "u") -> Node:
        """Give an expression a name, and return the name."""
        if node.name:
            return node
        target = variable(self.name(prefix), node.kind)
        self.lines.append(Line(f"{target.name} = {{0}}", (node,), (target.name,)))
        self.scope.append(target)
        return target

    def rows(self, dim: Dim) -> list[Node]:
        return [node for node in self.scope if node.kind == row(dim)]

    def some_row(self) -> Node:
        """Return any row in scope, the newest and the states rather than x."""
        rows = [node for node in self.scope if node.kind.sort == "row"]
        return self.any(rows[-6:] if self.chance(0.6) else rows)

    def masks(self, dim: Dim) -> list[Node]:
        return [node for node in self.scope if node.kind == mask(dim)]

    def first(self, rules: Sequence[tuple[float, Callable[[], Node | None]]]) -> Node:
        """Return what a rule drawn by weight makes; a rule that does not apply returns None and another is drawn."""
        left = list(rules)
        while True:
            i = self.rng.choices(range(len(left)), [weight for weight, _ in left])[0]
            found = left.pop(i)[1]()
            if found is not None:
                return found
