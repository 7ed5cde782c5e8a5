"""Curves over a common axis: each with its name at its end, where names would overlap they move apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from everloop.draw.figure import Figure
from everloop.draw.scene import SERIES, Circle, Line, Rect, Scene, Shape, Text, text_width
from everloop.errors import OptionError

WIDTH, HEIGHT, LEFT, TOP, SIZE = 460.0, 240.0, 62.0, 46.0, 11
MARKS = "▁▂▃▄▅▆▇█"
DECADES = 12  # no axis shows more powers of ten


@dataclass(frozen=True)
class Curve:
    """Points (x, y) in the order of x; what is not finite, or not above 0 on a logarithmic axis, is left out.

    colour: its number among the colours of curves; by default its own number.
    """

    xs: Sequence[float]
    ys: Sequence[float]
    colour: int | None = None
    dashed: bool = False


def draw_curves(
    curves: Mapping[str, Curve],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log: bool = False,
    from_zero: bool = True,
) -> Figure:
    """Return curves as one picture.

    Args:
        curves: by name; the name stands at the end of its curve, in its colour.
        title, x_label, y_label: what is written above, below and beside it.
        log: whether the upright axis is logarithmic.
        from_zero: whether an upright axis that is not begins at 0.

    Raises:
        OptionError: no curve has a point that can be drawn.
    """
    points = {name: _finite(curve, log) for name, curve in curves.items()}
    every = [point for found in points.values() for point in found]
    if not every:
        raise OptionError("there is no curve to draw: no point has finite numbers")
    lowest = [0.0] if from_zero else []
    (x0, x1), ticks_x = axis([x for x, _ in every])
    (y0, y1), ticks_y = _powers([y for _, y in every]) if log else axis([*lowest, *(y for _, y in every)])

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + (x - x0) / (x1 - x0) * WIDTH, TOP + HEIGHT - (y - y0) / (y1 - y0) * HEIGHT

    shapes: list[Shape] = [Rect(LEFT, TOP, WIDTH, HEIGHT, "paper", "frame", 0)]
    for value in ticks_y:
        y = place(x0, value)[1]
        shapes.append(Line(((LEFT, y), (LEFT + WIDTH, y)), "grid", 1))
        shapes.append(Text(LEFT - 6, y, f"1e{value:g}" if log else f"{value:g}", SIZE - 1, anchor="end", fill="muted"))
    for value in ticks_x:
        x = place(value, y0)[0]
        shapes.append(Line(((x, TOP + HEIGHT), (x, TOP + HEIGHT + 4)), "frame", 1))
        shapes.append(Text(x, TOP + HEIGHT + 13, f"{value:g}", SIZE - 1, fill="muted"))
    ends: list[tuple[str, int, float]] = []
    for number, (name, found) in enumerate(points.items()):
        line, curve = [place(x, y) for x, y in found if y >= y0], curves[name]
        if line:
            colour = number if curve.colour is None else curve.colour
            again = colour >= len(SERIES["light"])  # the colours have run out
            if len(line) == 1:  # a point
                ((x, y),) = line
                shapes.append(Circle(x, y, 3, f"series {colour}", ""))
            else:
                shapes.append(Line(tuple(line), f"series {colour}", 1.8, dashed=again or curve.dashed))
            ends.append((name, colour, line[-1][1]))
    for (name, colour, _), y in zip(ends, _apart([y for _, _, y in ends]), strict=True):
        shapes.append(Text(LEFT + WIDTH + 8, y, name, SIZE, anchor="start", fill=f"series {colour}"))
    names = max(text_width(name, SIZE) for name in points)
    width = max(LEFT + WIDTH + 8 + names + 14, 16 + text_width(title, 13, True))
    height = max(TOP + HEIGHT + 48, max(y for y in _apart([y for _, _, y in ends])) + 16)
    shapes.append(Text(14, 18, title, 13, anchor="start", bold=True))
    shapes.append(Text(14, 35, y_label, SIZE - 1, anchor="start", fill="muted"))
    shapes.append(Text(LEFT + WIDTH / 2, TOP + HEIGHT + 32, x_label, SIZE, fill="muted"))
    return Figure(Scene(width, height, tuple(shapes), title), _text(points, title, x_label, (y0, y1)))


def _finite(curve: Curve, log: bool) -> list[tuple[float, float]]:
    pairs = [(x, y) for x, y in zip(curve.xs, curve.ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return [(x, math.log10(y)) for x, y in pairs if y > 0] if log else pairs


def axis(values: Sequence[float]) -> tuple[tuple[float, float], list[float]]:
    """Return the ends of an axis and four to eight round numbers on it."""
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first = math.floor(low / step) * step if low >= 0 or low < -1e-12 else 0.0
    ticks = [first + k * step for k in range(int((high - first) / step + 1e-9) + 1)]
    return (min(low, ticks[0]), high), [round(t, 12) for t in ticks if t >= low - 1e-9]


def _powers(values: Sequence[float]) -> tuple[tuple[float, float], list[float]]:
    """Return the ends of a logarithmic axis in powers of ten, and those on it."""
    high = math.ceil(max(values) + 1e-9)
    low = max(math.floor(min(values)), high - DECADES)
    low = min(low, high - 1)
    step = max(1, -(-(high - low) // 6))
    return (float(low), float(high)), [float(t) for t in range(low, high + 1, step)]


def _apart(ys: Sequence[float], gap: float = 14.0) -> list[float]:
    """Return heights at least `gap` apart, in the same order from the top down, near where they were."""
    order = sorted(range(len(ys)), key=ys.__getitem__)
    found = list(ys)
    for above, below in pairwise(order):
        found[below] = max(found[below], found[above] + gap)
    raised, limit = list(found), TOP + HEIGHT
    for n in reversed(order):
        raised[n] = min(raised[n], limit)
        limit = raised[n] - gap
    return raised if min(raised, default=TOP) >= TOP else found


def _text(
    points: Mapping[str, Sequence[tuple[float, float]]], title: str, x_label: str, ends: tuple[float, float]
) -> str:
    """Return the curves as one line of bars each."""
    low, high = ends
    wide = max(map(len, points))
    lines = [title]
    for name, found in points.items():
        chosen = [found[round(k * (len(found) - 1) / 39)] for k in range(40)] if len(found) > 40 else found
        bars = "".join(MARKS[max(0, min(7, int(8 * (y - low) / (high - low))))] for _, y in chosen)
        lines.append(f"{name:{wide}}  {bars}")
    return "\n".join([*lines, f"{'':{wide}}  {x_label} →"]) + "\n"
