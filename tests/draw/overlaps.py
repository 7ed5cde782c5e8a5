"""What no figure may do: write one text over another or over a line, lead a line through a box or along another one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise

from everloop.draw.scene import Circle, Line, Rect, Scene, Text

Box = tuple[float, float, float, float]  # left, top, right, bottom


def overlaps(scene: Scene) -> list[str]:
    """Return what overlaps in a scene, in words; frames (filled "inside") may hold anything."""
    texts = [(t.text + t.below, _text_box(t)) for t in scene.shapes if isinstance(t, Text)]
    boxes = [_box(s) for s in scene.shapes if isinstance(s, Rect | Circle) and s.fill != "inside"]
    boxes = [box for box in boxes if box[2] - box[0] > 4]  # no dots where lines branch
    pieces = [(n, piece) for n, s in enumerate(scene.shapes) if isinstance(s, Line) for piece in pairwise(s.points)]
    found = [f"text {a!r} on {b!r}" for (a, p), (b, q) in combinations(texts, 2) if _meet(p, q, 0.5)]
    found += [f"boxes {p} and {q}" for p, q in combinations(boxes, 2) if _meet(p, q, 0.5)]
    for _, ((x0, y0), (x1, y1)) in pieces:
        line = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        found += [f"line {line} through box {box}" for box in boxes if _meet(line, box, 1.5)]
        found += [f"line {line} through text {text!r}" for text, box in texts if _meet(line, box, 0.5)]
    found += [f"text {text!r} leaves the paper" for text, box in texts if not _inside(box, scene)]
    return found


def upon_each_other(wires: list[tuple[object, tuple[tuple[float, float], ...]]]) -> Iterator[str]:
    """Yield which lines of different sources run along each other; each comes with its source."""
    pieces = [(source, piece) for source, points in wires for piece in pairwise(points)]
    for (a, p), (b, q) in combinations(pieces, 2):
        if a != b and (_along(p, q, 0) or _along(p, q, 1)):
            yield f"{p} of {a} along {q} of {b}"


def _along(p: tuple[tuple[float, float], ...], q: tuple[tuple[float, float], ...], axis: int) -> bool:
    """Return whether two pieces lie on one line of this axis (0: level) and share more than a point of it."""
    fixed = 1 - axis
    if any(abs(piece[0][fixed] - piece[1][fixed]) > 1e-6 for piece in (p, q)) or abs(p[0][fixed] - q[0][fixed]) > 0.5:
        return False
    low = max(min(piece[0][axis], piece[1][axis]) for piece in (p, q))
    high = min(max(piece[0][axis], piece[1][axis]) for piece in (p, q))
    return high - low > 0.5


def _box(shape: Rect | Circle) -> Box:
    """Return the box of a shape; at the round ends lines come in by a part of the radius."""
    if isinstance(shape, Circle):
        inset = 0.3 * shape.radius
        return (
            shape.x - shape.radius + inset,
            shape.y - shape.radius,
            shape.x + shape.radius - inset,
            shape.y + shape.radius,
        )
    inset = 0.3 * shape.radius if shape.radius > 8 else 0.0
    return shape.x + inset, shape.y, shape.x + shape.width - inset, shape.y + shape.height


def _text_box(text: Text) -> Box:
    left, top, right, bottom = text.box
    slack = 0.05 * text.size  # letters do not fill the height of their line
    return (left + slack, top, right - slack, bottom) if text.upward else (left, top + slack, right, bottom - slack)


def _meet(p: Box, q: Box, slack: float) -> bool:
    """Return whether a box or a line enters another by more than `slack`."""
    return p[0] < q[2] - slack and p[2] > q[0] + slack and p[1] < q[3] - slack and p[3] > q[1] + slack


def _inside(box: Box, scene: Scene) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= scene.width and box[3] <= scene.height
