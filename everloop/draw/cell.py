"""The figure of a cell: its data flow, laid out from the left to the right, with the way back to the next step."""

from __future__ import annotations

from collections.abc import Mapping

from everloop.cell import Cell
from everloop.draw.arrange import arranged
from everloop.draw.canvas import canvas
from everloop.draw.figure import Figure
from everloop.draw.flow import Flow, Node, flow_of
from everloop.draw.graphs import dot, mermaid
from everloop.draw.scene import DASHED, Circle, Line, Point, Rect, Scene, Shape, Text, moved, text_width
from everloop.draw.wires import Layout, Spacing

SIZE, SMALL = 13, 10
SPACING = Spacing(row=26, track=12, column=16, port=9)
BOX, CIRCLE, LOOP = 30.0, 26.0, 14.0
CAPTION = (
    "box: weights times what comes in, plus a bias, then the function",
    "circle: element by element    dashed: to the next time step",
)


def draw_cell(cell: Cell) -> Figure:
    """Return the data flow of a cell as a figure: gates, element-wise operations, states in and out, the way back.

    It is read from the step itself, of any cell: what is linear before an activation is one box, with the name that the
    step gives to it; x and h go to several gates as one line, [h, x].

    Raises:
        CellError: it is no cell.
        UnsupportedError: the compiler cannot read the step; the message names the operation and its line.
    """
    flow = flow_of(cell)
    return Figure(_scene(flow), canvas(flow), dot(flow), mermaid(flow))


def is_circle(node: Node) -> bool:
    """Whether a node is drawn as a circle: element by element, with a short sign."""
    return node.role == "map" and len(node.sign) < 4


def _scene(flow: Flow) -> Scene:
    gates = [n for n in flow.nodes.values() if n.role in ("gate", "linear")]
    box = max((text_width(n.sign, SIZE) for n in gates), default=0) + 16
    names = max((text_width(n.name, SMALL) for n in gates), default=0)
    names += 6 if names else 0
    sizes = {number: _size(node, max(box, 34), names, len(flow.into(number))) for number, node in flow.nodes.items()}
    round_ = frozenset(number for number, node in flow.nodes.items() if node.role == "map")
    layout = arranged(flow, sizes, SPACING, round_)
    loops, left, top, right, bottom = _loops(flow, layout, sizes)
    shapes: list[Shape] = [_frame(flow, layout, sizes), *loops]
    joins = flow.of("join")
    shapes += [Line(w.points, arrow=w.target is not None and w.target not in joins) for w in layout.wires]
    shapes += [Circle(x, y, 2.6, "ink") for x, y in layout.dots]
    for number, node in flow.nodes.items():
        shapes += _node(node, layout.places[number], sizes[number], names)
    title = flow.name
    shapes.append(Text(left, top - 24, title, 15, anchor="start", bold=True))
    width = max(right - left, max(text_width(line, SMALL) for line in CAPTION), text_width(title, 15, True))
    shapes += [
        Text(left, bottom + 22 + 15 * n, line, SMALL, anchor="start", fill="muted") for n, line in enumerate(CAPTION)
    ]
    height = bottom - top + 24 + 22 + 15 * len(CAPTION)
    return Scene(width + 32, height + 32, moved(shapes, 16 - left, 16 + 34 - top), f"Data flow of the cell {title}")


def _size(node: Node, box: float, names: float, lines: int) -> tuple[float, float]:
    if node.role in ("gate", "linear"):
        note = text_width(node.note, SMALL - 1) + 8
        return max(box, note) + names, max(BOX + (8 if node.note else 0), 11.0 * (lines + 1))
    if node.role == "join":
        return 8 + text_width(node.equation, SMALL), BOX
    if node.role == "map":
        wide = CIRCLE if is_circle(node) and len(node.sign) < 3 else text_width(node.sign, SIZE) + 18
        return wide, max(CIRCLE, 9.0 * lines + 8)
    label = Text(0, 0, node.name, SIZE, node.time)
    return label.width + 18, BOX


def _node(node: Node, place: Point, size: tuple[float, float], names: float) -> list[Shape]:
    (x, y), (width, height) = place, size
    left = x - width / 2
    if node.role in ("gate", "linear"):
        box = width - names
        found: list[Shape] = [Rect(left, y - height / 2, box, height, node.role, title=node.equation)]
        found.append(Text(left + box / 2, y - (5 if node.note else 0), node.sign, SIZE))
        if node.note:
            found.append(Text(left + box / 2, y + 9, node.note, SMALL - 1, fill="muted"))
        if names:  # the line goes on under the name
            found += [
                Line(((left + box, y), (left + width, y))),
                Text(left + box + 4, y - 8, node.name, SMALL, anchor="start"),
            ]
        return found
    if node.role == "join":
        bar = Rect(left, y - height / 2, 5, height, "muted", "muted", 2, title=node.equation)
        return [
            bar,
            Line(((left + 5, y), (left + width, y))),
            Text(left + 8, y - 8, node.equation, SMALL, anchor="start"),
        ]
    if node.role == "map":
        if width == CIRCLE == height:
            shape: Shape = Circle(x, y, CIRCLE / 2, "map", title=node.equation)
        else:
            shape = Rect(left, y - height / 2, width, height, "map", radius=min(width, height) / 2, title=node.equation)
        return [shape, Text(x, y, node.sign, SIZE)]
    role = "input" if node.role in ("input", "output") else "state"
    title = f"{node.size} numbers" if node.size else ""
    return [Rect(left, y - height / 2, width, height, role, title=title), Text(x, y, node.name, SIZE, node.time)]


def _frame(flow: Flow, layout: Layout, sizes: Mapping[int, tuple[float, float]]) -> Rect:
    outer = flow.of("state", "input")
    left = max(layout.places[n][0] + sizes[n][0] / 2 for n in outer) + 6
    right = min(layout.places[n][0] - sizes[n][0] / 2 for n in flow.of("new", "output")) - 6
    inner = [n for n in flow.nodes if n not in outer]
    top = min(layout.places[n][1] - sizes[n][1] / 2 for n in inner) - 12
    bottom = max(layout.places[n][1] + sizes[n][1] / 2 for n in inner) + 12
    top, bottom = min(top, -12), max(bottom, layout.height + 12)
    return Rect(left, top, right - left, bottom - top, "inside", "frame", 12)


def _loops(
    flow: Flow, layout: Layout, sizes: Mapping[int, tuple[float, float]]
) -> tuple[list[Shape], float, float, float, float]:
    """Return the ways back, each around those inside it, and the edges of everything."""
    ends = dict(zip(flow.of("state"), flow.of("new"), strict=True))
    lowest, *others = ends
    left = min(layout.places[n][0] - sizes[n][0] / 2 for n in flow.nodes)
    right = max(layout.places[n][0] + sizes[n][0] / 2 for n in flow.nodes)
    top, bottom = -12.0, layout.height + 12
    found: list[Shape] = []
    for turn, state in enumerate([*sorted(others, key=lambda s: layout.places[s][1]), lowest], 1):
        (x0, y0), (x1, y1) = layout.places[state], layout.places[ends[state]]
        reach = turn * LOOP
        if state == lowest:
            bottom, y = bottom + LOOP, bottom + LOOP
        else:
            top, y = top - LOOP, top - LOOP
        points = [(x1 + sizes[ends[state]][0] / 2, y1), (right + reach, y1), (right + reach, y)]
        points += [(left - reach, y), (left - reach, y0), (x0 - sizes[state][0] / 2, y0)]
        found.append(Line(tuple(points), "muted", 1.2, arrow=True, dashes=DASHED))
    reach = LOOP * len(ends)
    return found, left - reach, top, right + reach, bottom
