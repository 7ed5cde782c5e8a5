"""A data flow in a terminal: the same layout on a grid of characters."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from everloop.draw.arrange import arranged
from everloop.draw.flow import Flow, Node
from everloop.draw.scene import Point
from everloop.draw.wires import Spacing

CHARACTERS = Spacing(row=1, track=2, column=2, port=0)
UP, DOWN, LEFT, RIGHT = 1, 2, 4, 8
LINES = " │││─┘┐┤─└┌├─┴┬┼"  # by the sides on which a line leaves the character
CROSSING = "│"  # of lines that have nothing to do with each other
Place = tuple[int, int]


def canvas(flow: Flow) -> str:
    """Return a flow in characters. Lines that lead to one node may run together before it."""
    words = {number: _word(node) for number, node in flow.nodes.items()}
    sizes = {number: (float(len(word)), 1.0) for number, word in words.items()}
    layout = arranged(flow, sizes, CHARACTERS, frozenset(flow.of("map")))
    sides: dict[Place, dict[object, int]] = defaultdict(lambda: defaultdict(int))
    places: dict[Place, str] = {}
    for wire in layout.wires:
        grid = [_at(point) for point in wire.points]
        if wire.target is not None:
            grid[-1] = _before(wire.points, _at(layout.places[wire.target]))
            places[grid[-1]] = _head(wire.points)
        for a, b in pairwise(grid):
            _run(sides, wire.source, a, b)
    places = {at: _line(found) for at, found in sides.items()} | places
    for number, word in words.items():
        x, y = layout.places[number]
        left, row = round(x - len(word) / 2), round(y)
        places |= {(left + n, row): letter for n, letter in enumerate(word)}
    width, height = 1 + max(x for x, _ in places), 1 + max(y for _, y in places)
    lines = ["".join(places.get((x, y), " ") for x in range(width)).rstrip() for y in range(height)]
    back = ", ".join(f"{n.name}[t] → {n.name}[t−1]" for n in flow.nodes.values() if n.role == "new")
    return "\n".join([flow.name, "", *lines, "", f"to the next step: {back}"]) + "\n"


def _word(node: Node) -> str:
    if node.role == "join":
        return node.equation.replace(", ", ",")
    if node.time:
        return f"{node.name}[{node.time}]"
    inside = " ".join(part for part in (node.sign, node.note) if part) or node.name
    if node.role == "map":
        return f"({inside})"
    return f"[{inside}] {node.name}".rstrip() if node.role in ("gate", "linear") else node.name


def _at(point: Point) -> Place:
    return round(point[0]), round(point[1])


def _before(points: tuple[Point, ...], node: Place) -> Place:
    """Return the character at which a line ends: left of its node, or above or below it."""
    (x0, y0), (x1, y1) = points[-2:] if len(points) > 1 else (points[0], points[0])
    if x0 == x1 and y0 != y1:
        return round(x1), node[1] + (1 if y0 > y1 else -1)
    return round(x1) - 1, round(y1)


def _head(points: tuple[Point, ...]) -> str:
    (x0, y0), (x1, y1) = points[-2:] if len(points) > 1 else (points[0], points[0])
    return "►" if x0 != x1 or y0 == y1 else "▲" if y0 > y1 else "▼"


def _run(sides: dict[Place, dict[object, int]], source: object, a: Place, b: Place) -> None:
    """Draw a straight line; each of its ends is joined to it on one side only."""
    (x0, y0), (x1, y1) = a, b
    dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
    ahead, behind = (RIGHT, LEFT) if dx > 0 else (LEFT, RIGHT) if dx < 0 else (DOWN, UP) if dy > 0 else (UP, DOWN)
    for n in range(1, max(abs(x1 - x0), abs(y1 - y0))):
        sides[x0 + n * dx, y0 + n * dy][source] |= ahead | behind
    if a != b:
        sides[a][source] |= ahead
        sides[b][source] |= behind


def _line(found: dict[object, int]) -> str:
    """Return the character of the lines at one place."""
    if sorted(found.values()) == [UP | DOWN, LEFT | RIGHT]:
        return CROSSING
    whole = 0
    for sides in found.values():
        whole |= sides
    return LINES[whole]
