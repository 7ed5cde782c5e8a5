"""A prediction tree as coloured text and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import Any, Protocol

from rich.console import Console
from rich.text import Text as Line
from rich.tree import Tree as RichTree

from everloop.draw.figure import Figure
from everloop.draw.scene import Line as Stroke
from everloop.draw.scene import Rect, Scene, Shape, Text, heat, text_width

ROW, GAP, MARGIN, TOP, SIZE, SMALL = 26.0, 34.0, 16.0, 34.0, 12, 10
BEND = 12  # pieces of a curved line
VISIBLE = {"\n": "⏎", "\t": "⇥", " ": "␣", "": "■"}


class DrawnBranch(Protocol):
    """A symbol that may come next; see `everloop.decode.tree`."""

    @property
    def text(self) -> str: ...

    @property
    def probability(self) -> float: ...

    @property
    def cumulative(self) -> float: ...

    @property
    def children(self) -> Sequence[Any]: ...


class DrawnTree(Protocol):
    """A prompt and the branches after it."""

    @property
    def prompt(self) -> str: ...

    @property
    def children(self) -> Sequence[Any]: ...


def terminal(tree: DrawnTree) -> RichTree:
    """Return the tree for a terminal: each symbol with its probability, and that of the whole path behind it.

    Colours go from red (improbable) to green. A level that has only one branch is written on the same line.
    """
    root = RichTree(Line(shown(tree.prompt), "bold"), guide_style="dim")
    _grow(root, tree.children)
    return root


def _grow(above: RichTree, branches: Sequence[DrawnBranch]) -> None:
    for branch in branches:
        line = Line(shown(branch.text), f"bold {colour(branch.probability)}")
        line.append(f" {branch.probability:.0%}", colour(branch.probability))
        last = branch
        while len(last.children) == 1:
            last = last.children[0]
            line.append("  ").append(shown(last.text), f"bold {colour(last.probability)}")
            line.append(f" {last.probability:.0%}", colour(last.probability))
        line.append(f"   {last.cumulative:.2%}", "dim")
        _grow(above.add(line), last.children)


def draw_tree(tree: DrawnTree) -> Figure:
    """Return the tree as a picture: time runs to the right, a line is as thick as its path is probable.

    In an SVG a pointer on a symbol tells how probable it is from the prompt on.
    """
    title = f"What may come after {shown(tree.prompt)}"
    prompt = shown(tree.prompt)
    widths: list[float] = []
    _widen(tree.children, widths)
    start = MARGIN + text_width(prompt, SIZE, True) + 8
    lefts = [start + GAP]
    for width in widths:
        lefts.append(lefts[-1] + width + GAP)
    shapes: list[Shape] = []
    root = TOP + ROW * max(1, sum(map(_leaves, tree.children))) / 2
    bottom = _place(tree.children, lefts, 0, TOP, (start, root), shapes)
    shapes.sort(key=lambda shape: not isinstance(shape, Stroke))  # boxes lie on the lines that lead to them
    shapes.append(Text(MARGIN, root, prompt, SIZE, anchor="start", bold=True))
    shapes.append(Text(MARGIN, 18, title, 13, anchor="start", bold=True))
    width = max(lefts[-1] - GAP, text_width(title, 13, True) + MARGIN) + MARGIN
    return Figure(Scene(width, max(bottom, TOP + ROW) + MARGIN, tuple(shapes), title), _text(tree))


def _widen(branches: Sequence[DrawnBranch], widths: list[float], depth: int = 0) -> None:
    """Note how wide the boxes of each level are."""
    for branch in branches:
        widths += [0.0] * (depth + 1 - len(widths))
        widths[depth] = max(widths[depth], _box(branch))
        _widen(branch.children, widths, depth + 1)


def _box(branch: DrawnBranch) -> float:
    return text_width(shown(branch.text), SIZE, True) + text_width(f"{branch.probability:.0%}", SMALL) + 20


def _place(
    branches: Sequence[DrawnBranch],
    lefts: Sequence[float],
    depth: int,
    top: float,
    start: tuple[float, float],
    shapes: list[Shape],
) -> float:
    """Draw branches from `top` down, each with a line from `start`; return where they end."""
    for branch in branches:
        y, left, width = top + ROW * _leaves(branch) / 2, lefts[depth], _box(branch)
        (x0, y0), x1 = start, left
        parts = [k / BEND for k in range(BEND + 1)]
        bend = tuple((x0 + (x1 - x0) * part, y0 + (y - y0) * (3 - 2 * part) * part**2) for part in parts)
        shapes.append(Stroke(bend, heat(0.3 + 0.7 * branch.probability), 0.8 + 7 * branch.cumulative))
        shapes.append(Rect(left, y - 10, width, 20, "inside", "frame", 5, f"{branch.cumulative:.3%} from the prompt"))
        shapes.append(Text(left + 6, y, shown(branch.text), SIZE, anchor="start", bold=True))
        percent = f"{branch.probability:.0%}"
        shapes.append(Text(left + width - 6, y, percent, SMALL, anchor="end", fill="muted"))
        _place(branch.children, lefts, depth + 1, top, (left + width, y), shapes)
        top += ROW * _leaves(branch)
    return top


def _leaves(branch: DrawnBranch) -> int:
    return max(1, sum(_leaves(child) for child in branch.children))


def _text(tree: DrawnTree) -> str:
    """Return the tree as a terminal shows it, without colours."""
    file = StringIO()
    Console(file=file, width=500, color_system=None, legacy_windows=False).print(terminal(tree))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def colour(probability: float) -> str:
    """Return the name of a terminal colour for a probability: red, yellow, green."""
    return "green" if probability >= 0.5 else "yellow" if probability >= 0.15 else "red"


def shown(text: str) -> str:
    """Return a text with its spaces visible; the end of a sequence is a square."""
    return VISIBLE.get(text, text.replace("\n", "⏎").replace("\t", "⇥"))
