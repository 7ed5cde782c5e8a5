"""A prediction tree as coloured text and as an SVG picture."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Protocol

from rich.text import Text as Line
from rich.tree import Tree as RichTree

ROW, COLUMN, MARGIN = 26, 92, 16
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


def svg(tree: DrawnTree) -> str:
    """Return the tree as an SVG picture: time runs to the right, a line is as thick as its path is probable."""
    shapes: list[str] = []
    start = 9 * len(shown(tree.prompt)) + 2 * MARGIN
    height, depth = _place(tree.children, start, MARGIN, shapes, _middle(tree.children), 0)
    width = start + depth * COLUMN + MARGIN
    top = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height + MARGIN}"'
    style = 'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14"'
    prompt = f'<text x="{MARGIN}" y="{_middle(tree.children) + 5:.1f}" font-weight="bold">{_safe(tree.prompt)}</text>'
    paper = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([f"{top} {style}>", paper, *shapes, prompt, "</svg>"]) + "\n"


def _place(
    branches: Sequence[DrawnBranch], x: float, top: float, shapes: list[str], from_y: float, depth: int
) -> tuple[float, int]:
    """Draw branches from `top` down; return where they end, and how many levels there are."""
    deepest = depth
    for branch in branches:
        below = top + ROW * _leaves(branch)
        y = top + ROW * _leaves(branch) / 2
        hue = _hex(branch.probability)
        bend = f"M{x - 8:.1f},{from_y:.1f} C{x + 10:.1f},{from_y:.1f} {x:.1f},{y:.1f} {x + 22:.1f},{y:.1f}"
        thick = 0.8 + 7 * branch.cumulative
        shapes.append(f'<path d="{bend}" fill="none" stroke="{hue}" stroke-opacity="0.6" stroke-width="{thick:.2f}"/>')
        word = f'<tspan font-weight="bold" fill="{hue}">{_safe(branch.text)}</tspan>'
        percent = f'<tspan dx="5" font-size="10" fill="#666">{branch.probability:.0%}</tspan>'
        shapes.append(
            f'<text x="{x + 26:.1f}" y="{y + 5:.1f}">'
            f"<title>{branch.cumulative:.3%} from the prompt</title>{word}{percent}</text>"
        )
        _, levels = _place(branch.children, x + COLUMN, top, shapes, y, depth + 1)
        deepest, top = max(deepest, levels), below
    return top, deepest


def _leaves(branch: DrawnBranch) -> int:
    return max(1, sum(_leaves(child) for child in branch.children))


def _middle(branches: Sequence[DrawnBranch]) -> float:
    return MARGIN + ROW * max(1, sum(_leaves(branch) for branch in branches)) / 2


def colour(probability: float) -> str:
    """Return the name of a terminal colour for a probability: red, yellow, green."""
    return "green" if probability >= 0.5 else "yellow" if probability >= 0.15 else "red"


def _hex(probability: float) -> str:
    low, high = (0xC0, 0x39, 0x2B), (0x1E, 0x84, 0x49)
    return "#" + "".join(f"{round(a + (b - a) * probability):02x}" for a, b in zip(low, high, strict=True))


def shown(text: str) -> str:
    """Return a text with its spaces visible; the end of a sequence is a square."""
    return VISIBLE.get(text, text.replace("\n", "⏎").replace("\t", "⇥"))


def _safe(text: str) -> str:
    return escape("".join(c if c.isprintable() else "�" for c in shown(text)))
