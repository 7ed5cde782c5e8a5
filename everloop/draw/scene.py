"""A picture as shapes, before it becomes SVG or PNG: rectangles, circles, lines, texts, in the colours of a theme."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from everloop.errors import OptionError, unknown

Point = tuple[float, float]
Anchor = Literal["start", "middle", "end"]
Theme = Literal["light", "dark"]
FONT = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"
# Advance widths of the printable ASCII characters in DejaVu Sans, in hundredths of its size; Verdana, Helvetica and
# Arial are not wider, so what has room here has room in them.
_WIDTHS = [
    "32",
    "41",
    "46",
    "84",
    "64",
    "96",
    "78",
    "28",
    "40",
    "40",
    "50",
    "84",
    "32",
    "37",
    "32",
    "34",
    "64",
    "64",
    "64",
    "64",
    "64",
    "64",
    "64",
    "64",
    "64",
    "64",
    "34",
    "34",
    "84",
    "84",
    "84",
    "54",
    "100",
    "69",
    "69",
    "70",
    "78",
    "64",
    "58",
    "78",
    "76",
    "30",
    "30",
    "66",
    "56",
    "87",
    "75",
    "79",
    "61",
    "79",
    "70",
    "64",
    "62",
    "74",
    "69",
    "99",
    "69",
    "62",
    "69",
    "40",
    "34",
    "40",
    "84",
    "50",
    "50",
    "62",
    "64",
    "55",
    "64",
    "62",
    "36",
    "64",
    "64",
    "28",
    "28",
    "58",
    "28",
    "98",
    "64",
    "62",
    "64",
    "64",
    "42",
    "53",
    "40",
    "64",
    "60",
    "82",
    "60",
    "60",
    "53",
    "64",
    "34",
    "64",
    "84",
]
WIDTHS = {chr(32 + k): int(width) / 100 for k, width in enumerate(_WIDTHS)}

# what a shape is -> its colour, by theme; Okabe and Ito's colours, which colour-blind people tell apart
COLOURS: dict[str, dict[str, str]] = {
    "light": {
        "paper": "#ffffff", "ink": "#1b2733", "muted": "#667684", "frame": "#c9d3dc", "inside": "#f6f8fa",
        "gate": "#ffe3ad", "linear": "#d9d5f2", "map": "#cfe6f7", "state": "#d3eddf", "input": "#ffffff",
        "accent": "#b3400a", "grid": "#e3e8ec",
    },
    "dark": {
        "paper": "#12181f", "ink": "#e8edf2", "muted": "#93a2b0", "frame": "#3a4756", "inside": "#19222c",
        "gate": "#6b4c10", "linear": "#443c78", "map": "#1d4a68", "state": "#1f5440", "input": "#12181f",
        "accent": "#ff9d5c", "grid": "#2a3541",
    },
}  # fmt: skip
SERIES = {
    "light": ("#0072b2", "#d55e00", "#008a63", "#b0487f", "#8a6d00", "#3a8fc0", "#1b2733"),
    "dark": ("#56b4e9", "#ff9d5c", "#2bd0a0", "#e593c1", "#f0e442", "#8fd0ff", "#e8edf2"),
}


@dataclass(frozen=True)
class Rect:
    """A rectangle with rounded corners, without an edge if it has no stroke; `title` is shown where a pointer rests."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    stroke: str = "ink"
    radius: float = 5
    title: str = ""


@dataclass(frozen=True)
class Circle:
    """A circle around (x, y)."""

    x: float
    y: float
    radius: float
    fill: str
    stroke: str = "ink"
    title: str = ""


DASHED, DOTTED = (5.0, 4.0), (1.5, 3.0)


@dataclass(frozen=True)
class Line:
    """A line through points, with an arrow at its end if wished; dashes: lengths of strokes and gaps, none if solid."""

    points: tuple[Point, ...]
    stroke: str = "ink"
    width: float = 1.4
    arrow: bool = False
    dashes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Area:
    """A filled polygon without a border."""

    points: tuple[Point, ...]
    fill: str
    opacity: float = 0.18


@dataclass(frozen=True)
class Picture:
    """A picture of pixels, which are not smoothed, as the bytes of a PNG file."""

    x: float
    y: float
    width: float
    height: float
    png: bytes


@dataclass(frozen=True)
class Text:
    """A text whose middle is at the height y; `below` is set smaller and lower, behind it.

    One that reads `upward` has its middle at x, and the anchor says which end of it is at y.
    """

    x: float
    y: float
    text: str
    size: float = 13
    below: str = ""
    anchor: Anchor = "middle"
    fill: str = "ink"
    bold: bool = False
    upward: bool = False

    @property
    def width(self) -> float:
        """How long it is at most."""
        return text_width(self.text, self.size, self.bold) + text_width(self.below, BELOW * self.size)

    @property
    def left(self) -> float:
        """Where it begins."""
        return self.x - {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor] * self.width

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Its left, upper, right and lower edge."""
        if not self.upward:
            return self.left, self.y - self.size / 2, self.left + self.width, self.y + self.size / 2
        lower = self.y + {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor] * self.width
        return self.x - self.size / 2, lower - self.width, self.x + self.size / 2, lower


HEATS = 20  # steps from paper to a full colour
PAGE = "page"  # the theme of a picture inside a page, which has both
Shape = Rect | Circle | Line | Area | Picture | Text
BELOW = 0.72  # the size of what stands below, as a part of that of its text


@dataclass(frozen=True)
class Scene:
    """Shapes on a sheet of paper of this size, in the order in which they are drawn; `title` says what it shows."""

    width: float
    height: float
    shapes: tuple[Shape, ...]
    title: str = ""


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Return how wide a text is at most, in the fonts that pictures name."""
    return size * sum(map(_width, text)) * (1.16 if bold else 1)


@lru_cache(4096)
def _width(letter: str) -> float:
    wide = unicodedata.east_asian_width(letter) in "WF"
    return 0.0 if unicodedata.combining(letter) else WIDTHS.get(letter, 1.02 if wide else 0.84)


def heat(value: float) -> str:
    """Return the role of a colour between -1 and 1: paper at 0, the first colour of a series at 1, the second at -1."""
    return f"heat {round(HEATS * max(-1.0, min(1.0, value)))}"


def ink_on(value: float) -> str:
    """Return the role of a text that is read on that colour."""
    return "paper" if abs(value) > 0.6 else "ink"


def colour(role: str, theme: str) -> str:
    """Return the colour of a role: a name of COLOURS, "series 3", "heat -7", or a colour as it is.

    On a page each is a variable, which the style sheet of the page sets for light and for dark paper.
    """
    name, _, number = role.partition(" ")
    if name == "series":
        number = str(int(number) % len(SERIES["light"]))
    if theme == PAGE:
        known = number or role in COLOURS["light"]
        return f"var(--{name}{f'-{number}' if number else ''})" if known else role
    if name == "series":
        return SERIES[theme][int(number)]
    if name == "heat":
        return _mixed(COLOURS[theme]["paper"], SERIES[theme][int(number) < 0], abs(int(number)) / HEATS)
    return COLOURS[theme].get(role, role)


def variables(theme: Theme) -> dict[str, str]:
    """Return the colours of a theme by the names that they have on a page."""
    series = [f"series {n}" for n in range(len(SERIES[theme]))]
    heats = [f"heat {n}" for n in range(-HEATS, HEATS + 1)]
    return {colour(role, PAGE)[4:-1]: colour(role, theme) for role in (*COLOURS[theme], *series, *heats)}


def _mixed(paper: str, full: str, part: float) -> str:
    pairs = [(int(paper[k : k + 2], 16), int(full[k : k + 2], 16)) for k in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in pairs)


def checked_theme(theme: str) -> str:
    """Return the name of a theme. Raises OptionError if there is none such."""
    if theme not in get_args(Theme):
        raise OptionError(unknown("theme", theme, get_args(Theme)))
    return theme


def arrow_head(points: Sequence[Point], length: float = 8, half: float = 3.4) -> tuple[Point, ...]:
    """Return the triangle at the end of a line."""
    (x0, y0), (x1, y1) = points[-2], points[-1]
    size = max(1e-9, ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5)
    dx, dy = (x1 - x0) / size, (y1 - y0) / size
    bx, by = x1 - length * dx, y1 - length * dy
    return (x1, y1), (bx - half * dy, by + half * dx), (bx + half * dy, by - half * dx)


def bounds(shapes: Iterable[Shape]) -> tuple[float, float, float, float]:
    """Return the left, upper, right and lower edge of some shapes."""
    xs: list[float] = []
    ys: list[float] = []
    for shape in shapes:
        if isinstance(shape, Line | Area):
            xs += [x for x, _ in shape.points]
            ys += [y for _, y in shape.points]
        elif isinstance(shape, Circle):
            xs += [shape.x - shape.radius, shape.x + shape.radius]
            ys += [shape.y - shape.radius, shape.y + shape.radius]
        elif isinstance(shape, Rect | Picture):
            xs += [shape.x, shape.x + shape.width]
            ys += [shape.y, shape.y + shape.height]
        else:
            left, top, right, bottom = shape.box
            xs += [left, right]
            ys += [top, bottom]
    return min(xs), min(ys), max(xs), max(ys)


def moved(shapes: Iterable[Shape], dx: float, dy: float) -> tuple[Shape, ...]:
    """Return shapes at another place."""
    return tuple(_moved(shape, dx, dy) for shape in shapes)


def _moved(shape: Shape, dx: float, dy: float) -> Shape:
    if isinstance(shape, Line):
        points = tuple((x + dx, y + dy) for x, y in shape.points)
        return Line(points, shape.stroke, shape.width, shape.arrow, shape.dashes)
    if isinstance(shape, Area):
        return Area(tuple((x + dx, y + dy) for x, y in shape.points), shape.fill, shape.opacity)
    return type(shape)(**{**vars(shape), "x": shape.x + dx, "y": shape.y + dy})
