"""Makes a failing cell and its call smaller as long as it fails in the same way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.random_cells.cases import Case
from tests.random_cells.check import Outcome, check
from tests.random_cells.source import CODE, Declared, Dim, Drawn, I, Kind, Line, Node, row, variable

Pair = tuple[Drawn, Case]


def shrink(drawn: Drawn, case: Case, outcome: Outcome, tries: int = 400) -> tuple[Drawn, Case, Outcome]:
    """Return the smallest cell and call found within so many tries that fail as these do."""
    seen = {(drawn.source(), drawn.frozen, repr(case))}
    found = True
    while found and tries > 0:
        found = False
        for smaller, easier in candidates(drawn, case):
            key = (smaller.source(), smaller.frozen, repr(easier))
            if key in seen:
                continue
            seen.add(key)
            tries -= 1
            came = check(smaller, easier)
            if (came.kind, came.compiled, manner(came)) == (outcome.kind, outcome.compiled, manner(outcome)):
                drawn, case, outcome, found = smaller, easier, came, True
                break
            if tries == 0:
                break
    return drawn, case, outcome


def manner(outcome: Outcome) -> str:
    """Return how it fails: the error, or whether values or only gradients are false."""
    if outcome.text.startswith("raises"):
        return outcome.text.split(":")[0]
    return "values" if re.search(r"(^|, )(output|state)", outcome.text) else "gradients" if outcome.text else ""


def candidates(drawn: Drawn, case: Case) -> Iterator[Pair]:
    """Yield what is a little smaller, the largest steps first."""
    yield from ((drawn, smaller) for smaller in easier_calls(case))
    yield from ((smaller, case) for smaller in smaller_cells(drawn))
    yield from ((drawn, smaller) for smaller in smaller_sizes(case))


def easier_calls(case: Case) -> Iterator[Case]:
    plain = Case(case.sizes)
    for name in (
        "around",
        "bidirectional",
        "how",
        "lengths",
        "resets",
        "learned",
        "state",
        "batch_first",
        "double",
        "training",
        "loss",
        "merge",
        "recompute",
    ):
        if getattr(case, name) != getattr(plain, name):
            yield replace(case, **{name: getattr(plain, name)})
    for batch in (1, 2, 3):
        if batch < case.batch:
            yield _cut(case, case.steps, batch)
    for steps in (1, 2, 3):
        if steps < case.steps:
            yield _cut(case, steps, case.batch)


def smaller_sizes(case: Case) -> Iterator[Case]:
    for letter, size in case.sizes.items():
        for n in (1, 2, 3, 4, 5, 8, 9):
            if n < size:
                yield replace(case, sizes=case.sizes | {letter: n})


def _cut(case: Case, steps: int, batch: int) -> Case:
    lengths = None if case.lengths is None else tuple(min(n, steps) for n in case.lengths[:batch])
    resets = None if case.resets is None else tuple((t, b) for t, b in case.resets if t < steps and b < batch)
    return replace(case, steps=steps, batch=batch, lengths=lengths, resets=resets)


def smaller_cells(drawn: Drawn) -> Iterator[Drawn]:
    lines, declared = drawn.used()
    drawn = replace(drawn, lines=lines, declared=declared)
    yield from _without_a_state(drawn)
    for i, line in enumerate(lines):
        if line.changes:
            yield replace(drawn, lines=lines[:i] + lines[i + 1 :])
    for i in range(len(drawn.frozen)):
        yield replace(drawn, frozen=drawn.frozen[:i] + drawn.frozen[i + 1 :])
    for i, whole in enumerate(drawn.after):
        for node in simpler(whole, _in_scope(drawn, lines)):
            yield replace(drawn, after=(*drawn.after[:i], node, *drawn.after[i + 1 :]))
    for i in reversed(range(len(lines))):
        for j, whole in enumerate(lines[i].parts):
            for node in simpler(whole, _in_scope(drawn, lines[:i])):
                parts = (*lines[i].parts[:j], node, *lines[i].parts[j + 1 :])
                yield replace(drawn, lines=(*lines[:i], replace(lines[i], parts=parts), *lines[i + 1 :]))
    for old, new in (("K", "H"), ("K", "I"), ("C", "A"), ("C", "B"), ("B", "A")):
        yield _with_letter(drawn, old, new)
    yield from _with_one_parameter(drawn)
    yield from _inlined(drawn)


def simpler(whole: Node, scope: list[Node]) -> Iterator[Node]:
    """Yield the expression with one part of it replaced by something simpler of its kind."""
    plain = "({0} @ {1}.T)"
    if whole.parts:
        yield from (v for v in scope if v.kind == whole.kind)
    for node in list(whole.walk())[1:]:
        if node.kind == whole.kind and node not in scope:
            yield node
    if "@" in whole.text and whole.text != plain and len(whole.parts) == 2:
        yield replace(whole, text=plain)
    if whole.kind.sort == "mask" and whole.text != "({0} > 0)":
        yield from (Node("({0} > 0)", whole.kind, (v,)) for v in scope if v.kind == row(whole.kind.dim))
    if whole.kind.sort == "row" and len(whole.parts) > 1 and whole.text not in ("({0} + {1})", plain):
        for a in whole.parts:
            for b in whole.parts:
                if a is not b and a.kind == b.kind == whole.kind:
                    yield Node("({0} + {1})", whole.kind, (a, b))
    for i, part in enumerate(whole.parts):
        for node in simpler(part, scope):
            yield replace(whole, parts=(*whole.parts[:i], node, *whole.parts[i + 1 :]))


def _in_scope(drawn: Drawn, lines: tuple[Line, ...]) -> list[Node]:
    """Return x and the states, which are always there."""
    return [variable("x", row(I)), *(variable(name, kind) for name, kind in drawn.states)]


def _changed(drawn: Drawn, change: Callable[[Node], Node]) -> Drawn:
    def through(node: Node) -> Node:
        return change(replace(node, parts=tuple(map(through, node.parts))))

    lines = tuple(replace(line, parts=tuple(map(through, line.parts))) for line in drawn.lines)
    return replace(drawn, lines=lines, after=tuple(map(through, drawn.after)))


def _without_a_state(drawn: Drawn) -> Iterator[Drawn]:
    for i in range(len(drawn.outputs)):
        j = len(drawn.states) + i
        fewer = drawn.outputs[:i] + drawn.outputs[i + 1 :]
        yield replace(drawn, outputs=fewer, after=drawn.after[:j] + drawn.after[j + 1 :])
    for i, (name, kind) in enumerate(drawn.states):
        rest = drawn.states[:i] + drawn.states[i + 1 :]
        others = [n for n, k in (("x", row(I)), *rest) if k == kind]
        if not rest:
            continue
        read = any(node.name == name for whole in _all(drawn) for node in whole.walk())
        for other in others if read else [name]:
            smaller = _changed(drawn, _renaming(name, variable(other, kind)))
            yield replace(smaller, states=rest, after=smaller.after[:i] + smaller.after[i + 1 :])


def _all(drawn: Drawn) -> list[Node]:
    return [*drawn.after, *(part for line in drawn.lines for part in line.parts)]


def _with_letter(drawn: Drawn, old: str, new: str) -> Drawn:
    def text(t: str) -> str:
        return t.replace(CODE[old], CODE[new])

    def dims(all_of_them: tuple[Dim, ...]) -> tuple[Dim, ...]:
        return tuple(dim.swap(old, new) for dim in all_of_them)

    def node(n: Node) -> Node:
        return replace(n, text=text(n.text), kind=Kind(n.kind.sort, dims(n.kind.dims)))

    def declared(d: Declared) -> Declared:
        size = re.sub(rf"\b{old}\b", new, d.text) if d.sort in ("param", "bias") else text(d.text)
        return replace(d, text=size, dims=dims(d.dims))

    drawn = _changed(drawn, node)
    return replace(
        drawn,
        states=tuple((name, Kind(kind.sort, dims(kind.dims))) for name, kind in drawn.states),
        outputs=tuple((name, dim.swap(old, new)) for name, dim in drawn.outputs),
        lines=tuple(replace(line, text=text(line.text)) for line in drawn.lines),
        declared=tuple(map(declared, drawn.declared)),
    )


def _with_one_parameter(drawn: Drawn) -> Iterator[Drawn]:
    """Yield the cell with one parameter in the places of two."""
    own = [d for d in drawn.declared if d.sort in ("param", "bias")]
    for b in own:
        for a in own[: own.index(b)]:
            if a.dims == b.dims:

                def one(n: Node, a: Declared = a, b: Declared = b) -> Node:
                    return replace(n, text=f"self.{a.name}", uses=(a.name,)) if n.uses == (b.name,) else n

                yield _changed(drawn, one)
                break


def _inlined(drawn: Drawn) -> Iterator[Drawn]:
    """Yield the cell with the definition of a variable in the one place where it is read."""
    for i, line in enumerate(drawn.lines):
        (name,) = line.targets if len(line.targets) == 1 else ("",)
        reads = [n for whole in _all(drawn) for n in whole.walk() if n.name == name]
        if not name or line.text != f"{name} = {{0}}" or any(other.changes == name for other in drawn.lines):
            continue
        if len(reads) == 1 or line.parts[0].name:
            rest = replace(drawn, lines=drawn.lines[:i] + drawn.lines[i + 1 :])
            yield _changed(rest, _renaming(name, line.parts[0]))


def _renaming(name: str, by: Node) -> Callable[[Node], Node]:
    return lambda node: by if node.name == name else node
