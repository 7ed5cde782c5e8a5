"""Forecasts: what was known, what was forecast with its interval, and what came, a panel for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from everloop.draw.curves import MARKS, axis
from everloop.draw.figure import Figure
from everloop.draw.scene import DASHED, Area, Line, Point, Rect, Scene, Shape, Text, text_width
from everloop.errors import OptionError

WIDTH, HEIGHT, LEFT, ABOVE, BELOW, TOP = 340.0, 150.0, 54.0, 24.0, 30.0, 56.0
COLUMNS = 2


@dataclass(frozen=True)
class Panel:
    """A forecast. past: what is known; came, point: what came and what was forecast, of the same steps; low, high: the
    ends of the interval, or nothing. A number that is missing is NaN."""

    title: str
    past: Sequence[float]
    came: Sequence[float]
    point: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def draw_forecasts(panels: Sequence[Panel], *, title: str, interval: str = "interval") -> Figure:
    """Return forecasts side by side, each with its own axis; `interval` says in the legend what the band is.

    Raises:
        OptionError: there is none, or one whose numbers are not equally many or all missing.
    """
    if not panels:
        raise OptionError("there is no forecast to draw")
    shapes: list[Shape] = [Text(14, 18, title, 13, anchor="start", bold=True), *_legend(panels, interval)]
    for number, panel in enumerate(panels):
        row, column = divmod(number, COLUMNS)
        shapes += _panel(panel, LEFT + column * (WIDTH + LEFT), TOP + row * (HEIGHT + ABOVE + BELOW) + ABOVE)
    across = min(COLUMNS, len(panels))
    width = max(across * (WIDTH + LEFT) + 14, 28 + text_width(title, 13, bold=True))
    height = TOP + -(-len(panels) // COLUMNS) * (HEIGHT + ABOVE + BELOW)
    return Figure(Scene(width, height, tuple(shapes), title), _text(panels, title))


def _legend(panels: Sequence[Panel], interval: str) -> list[Shape]:
    shapes: list[Shape] = []
    x = 14.0
    for name, colour in (("came", "ink"), ("forecast", "series 0")):
        shapes.append(Line(((x, 38), (x + 18, 38)), colour, 1.8))
        shapes.append(Text(x + 24, 38, name, 11, anchor="start"))
        x += 40 + text_width(name, 11)
    if any(panel.low for panel in panels):
        shapes.append(Area(((x, 33), (x + 18, 33), (x + 18, 43), (x, 43)), "series 0", 0.25))
        shapes.append(Text(x + 24, 38, interval, 11, anchor="start"))
    return shapes


def _panel(panel: Panel, left: float, top: float) -> list[Shape]:
    past, ahead = len(panel.past), len(panel.point)
    sizes = {len(part) for part in (panel.came, panel.point, panel.low or panel.point, panel.high or panel.point)}
    every = [y for part in (panel.past, panel.came, panel.point, panel.low, panel.high) for y in part]
    finite = [y for y in every if math.isfinite(y)]
    if sizes != {ahead} or not finite:
        raise OptionError(f"the forecast {panel.title!r} cannot be drawn; expected equally many numbers, one known")
    (low, high), ticks = axis(finite)

    def place(step: int, y: float) -> Point:
        x = left + (step + past) / max(1, past + ahead - 1) * WIDTH
        return x, top + HEIGHT - (y - low) / (high - low) * HEIGHT

    def lines(ys: Sequence[float], first: int, colour: str, width: float) -> list[Shape]:
        """Return a line for each piece without a missing number."""
        pieces: list[list[Point]] = [[]]
        for step, y in enumerate(ys, first):
            if math.isfinite(y):
                pieces[-1].append(place(step, y))
            elif pieces[-1]:
                pieces.append([])
        return [Line(tuple(piece if len(piece) > 1 else piece * 2), colour, width) for piece in pieces if piece]

    shapes: list[Shape] = [Rect(left, top, WIDTH, HEIGHT, "paper", "frame", 0)]
    for y in ticks:
        height = place(0, y)[1]
        shapes.append(Line(((left, height), (left + WIDTH, height)), "grid", 1))
        shapes.append(Text(left - 6, height, f"{y:g}", 10, anchor="end", fill="muted"))
    now = place(0, low)[0]
    shapes.append(Line(((now, top), (now, top + HEIGHT)), "frame", 1, dashes=DASHED))
    marked = (-past, 0, ahead - 1) if past > 1 else (0, ahead - 1)
    shapes += [
        Text(place(s, low)[0], top + HEIGHT + 12, f"{s + 1:+d}", 10, fill="muted") for s in dict.fromkeys(marked)
    ]
    if panel.low:
        band = [place(h, y) for h, y in enumerate(panel.low)] + [place(h, y) for h, y in enumerate(panel.high)][::-1]
        shapes.append(Area(tuple(band), "series 0", 0.25))
    shapes += lines([*panel.past, *panel.came], -past, "ink", 1.3)
    shapes += lines(panel.point, 0, "series 0", 2)
    shapes.append(Text(left, top - 10, panel.title, 11, anchor="start"))
    return shapes


def _text(panels: Sequence[Panel], title: str) -> str:
    """Return two lines of bars for each panel: what was known and came, and below it the forecast."""
    lines = [title]
    for panel in panels:
        finite = [y for y in (*panel.past, *panel.came, *panel.point) if math.isfinite(y)]
        low, high = min(finite), max(finite)

        def bars(ys: Sequence[float], low: float = low, size: float = (high - low) or 1.0) -> str:
            marks = (MARKS[max(0, min(7, int(8 * (y - low) / size)))] if math.isfinite(y) else " " for y in ys)
            return "".join(marks)

        lines += [panel.title, f"came      {bars(panel.past)}│{bars(panel.came)}"]
        lines.append(f"forecast  {' ' * len(panel.past)}│{bars(panel.point)}")
    return "\n".join(lines) + "\n"
