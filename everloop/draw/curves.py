"""Curves over a common axis: each with its name at its end, where names would overlap they move apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

from everloop.draw.figure import Figure
from everloop.draw.scene import (
    DASHED,
    DOTTED,
    SERIES,
    Circle,
    Line,
    Point,
    Rect,
    Scene,
    Shape,
    Text,
    moved,
    text_width,
)
from everloop.errors import OptionError

WIDTH, NARROW, HEIGHT, LEFT, TOP, SIZE = 460.0, 260.0, 240.0, 62.0, 46.0, 11
SAMPLE, ROW = 18.0, 16.0  # of a curve beside its name; from one line of text to the next
DOT = 3.0  # the radius of the only point of a curve
STROKES = ((), DASHED, DOTTED, (8.0, 3.0, 1.5, 3.0))
MARKS = "▁▂▃▄▅▆▇█"
DECADES = 12  # no axis shows more powers of ten

Axis = tuple[tuple[float, float], list[float]]  # its ends, and the numbers on it


@dataclass(frozen=True)
class Curve:
    """Points (x, y) in the order of x; what is not finite, or not above 0 on a logarithmic axis, is left out.

    colour: its number among the colours of curves; by default its own number. stroke: its number among `STROKES`; by
    default solid, and another one where the colours have run out.
    """

    xs: Sequence[float]
    ys: Sequence[float]
    colour: int | None = None
    stroke: int | None = None


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
        curves: by name; the name stands at the end of its curve, on a phone below, in its colour and with its stroke.
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
    across = axis([x for x, _ in every])
    up = _powers([y for _, y in every]) if log else axis([*lowest, *(y for _, y in every)])
    styles = [_style(number, curve) for number, curve in enumerate(curves.values())]

    def scene(width: float, is_narrow: bool) -> Scene:
        plot = _Plot(width, across, up, log)
        shapes = list(plot.grid(x_label))
        ends: list[tuple[str, _Style, float]] = []
        dots: list[Point] = []  # curves of one point
        for (name, found), style in zip(points.items(), styles, strict=True):
            line = [plot.place(x, y) for x, y in found if y >= up[0][0]]
            if line:
                if len(line) == 1:
                    dots.append(_free(*line[0], dots))
                    shapes.append(style.dot(*dots[-1]))
                else:
                    shapes.append(style.line(tuple(line)))
                ends.append((name, style, line[-1][1]))
        below = [TOP + HEIGHT + 54 + ROW * n for n in range(len(ends))]
        heights = below if is_narrow else _apart([y for _, _, y in ends])
        left = 14.0 if is_narrow else LEFT + width + 8
        for (name, style, _), y in zip(ends, heights, strict=True):
            shapes.append(style.line(((left, y), (left + SAMPLE, y)), 2.2))
            shapes.append(Text(left + SAMPLE + 5, y, name, SIZE, anchor="start", fill=style.stroke))
        names = left + SAMPLE + 5 + max(text_width(name, SIZE) for name in points) + 14
        lines = _wrapped(title, width + LEFT) if is_narrow else [title]
        raised = ROW * (len(lines) - 1)
        shapes = [*moved(shapes, 0, raised)]
        shapes += [Text(14, 18 + ROW * n, text, 13, anchor="start", bold=True) for n, text in enumerate(lines)]
        shapes.append(Text(14, 35 + raised, y_label, SIZE - 1, anchor="start", fill="muted"))
        whole = max(LEFT + width + 14, names, 16 + max(text_width(text, 13, True) for text in lines))
        return Scene(whole, raised + max(TOP + HEIGHT + 48, max(heights) + 16), tuple(shapes), title)

    text = _text(points, title, x_label, up[0])
    return Figure(scene(WIDTH, False), text, narrow=Figure(scene(NARROW, True)))


@dataclass(frozen=True)
class _Style:
    stroke: str
    dashes: tuple[float, ...]

    def line(self, points: tuple[Point, ...], width: float = 1.8) -> Line:
        return Line(points, self.stroke, width, dashes=self.dashes)

    def dot(self, x: float, y: float) -> Circle:
        """Return a curve's only point: hollow where its stroke has gaps."""
        return Circle(x, y, DOT, "paper" if self.dashes else self.stroke, self.stroke if self.dashes else "")


def _style(number: int, curve: Curve) -> _Style:
    """Return how a curve is drawn: strokes change where the colours have run out."""
    colour = number if curve.colour is None else curve.colour
    stroke = colour // len(SERIES["light"]) if curve.stroke is None else curve.stroke
    return _Style(f"series {colour}", STROKES[stroke % len(STROKES)])


@dataclass(frozen=True)
class _Plot:
    """A frame with its axes, each given as (ends, numbers on it)."""

    width: float
    across: Axis
    up: Axis
    log: bool

    def place(self, x: float, y: float) -> Point:
        (x0, x1), (y0, y1) = self.across[0], self.up[0]
        return LEFT + (x - x0) / (x1 - x0) * self.width, TOP + HEIGHT - (y - y0) / (y1 - y0) * HEIGHT

    def grid(self, x_label: str) -> Iterator[Shape]:
        """Yield the frame, the numbers along it, and what they count."""
        yield Rect(LEFT, TOP, self.width, HEIGHT, "paper", "frame", 0)
        (x0, _), (y0, _) = self.across[0], self.up[0]
        for value in self.up[1]:
            y = self.place(x0, value)[1]
            shown = f"1e{value:g}" if self.log else f"{value:g}"
            yield Line(((LEFT, y), (LEFT + self.width, y)), "grid", 1)
            yield Text(LEFT - 6, y, shown, SIZE - 1, anchor="end", fill="muted")
        for value in self.across[1]:
            x = self.place(value, y0)[0]
            yield Line(((x, TOP + HEIGHT), (x, TOP + HEIGHT + 4)), "frame", 1)
            yield Text(x, TOP + HEIGHT + 13, f"{value:g}", SIZE - 1, fill="muted")
        yield Text(LEFT + self.width / 2, TOP + HEIGHT + 32, x_label, SIZE, fill="muted")


def _finite(curve: Curve, log: bool) -> list[tuple[float, float]]:
    pairs = [(x, y) for x, y in zip(curve.xs, curve.ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return [(x, math.log10(y)) for x, y in pairs if y > 0] if log else pairs


def axis(values: Sequence[float]) -> Axis:
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


def _powers(values: Sequence[float]) -> Axis:
    """Return the ends of a logarithmic axis in powers of ten, and those on it."""
    high = math.ceil(max(values) + 1e-9)
    low = max(math.floor(min(values)), high - DECADES)
    low = min(low, high - 1)
    step = max(1, -(-(high - low) // 6))
    return (float(low), float(high)), [float(t) for t in range(low, high + 1, step)]


def _free(x: float, y: float, taken: Sequence[Point]) -> Point:
    """Return the place nearest to this one, to its right or left, where a dot covers none of those that are there."""
    gap = 2 * DOT + 1
    places = ((x + sign * gap * n, y) for n in count() for sign in (1, -1))
    return next(place for place in places if all(math.dist(place, other) >= gap for other in taken))


def _wrapped(text: str, width: float) -> list[str]:
    """Return a bold text in lines of this width."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_width(longer, 13, True) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


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
