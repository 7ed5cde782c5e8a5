"""The path of a pen, coloured by the symbols that are read from it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from everloop.draw.figure import Figure
from everloop.draw.scene import DASHED, Circle, Line, Point, Scene, Shape, Text, bounds, text_width
from everloop.errors import OptionError

HEIGHT, WIDEST, LEFT, TOP, LABELS = 130.0, 1000.0, 24.0, 44.0, 46.0
SIZE, COLOURS = 19.0, 6  # of labels; the last of a theme's series is the colour of ink
BLANK = "·"


def draw_path(
    points: Sequence[Point], ink: Sequence[bool], symbols: Sequence[int], labels: Sequence[str], *, title: str
) -> Figure:
    """Return the path of a pen: what is read where has its colour and its label, ways in the air are dashed.

    Args:
        points: the places [T + 1] through which the pen went, y growing upwards.
        ink: for each of the T ways between them, whether the pen was on the paper.
        symbols: for each way the number of the symbol that is read there; -1 is none.
        labels: the symbols by their numbers.
        title: what the figure shows.

    Raises:
        OptionError: there is no way, or not equally many of each.
    """
    if not ink or not len(points) - 1 == len(ink) == len(symbols):
        counts = f"{len(points)} points, {len(ink)} ways with or without ink and {len(symbols)} symbols"
        raise OptionError(f"a path has {counts}; expected at least one way, and a point more than ways")
    left, low = (min(p[k] for p in points) for k in (0, 1))
    width, height = (max(p[k] for p in points) - least for k, least in ((0, left), (1, low)))
    scale = min(HEIGHT / max(height, 1e-9), WIDEST / max(width, 1e-9))
    under = TOP + LABELS + height * scale
    placed = [(LEFT + (x - left) * scale, under - (y - low) * scale) for x, y in points]
    ways = list(zip(ink, symbols, strict=True))
    shapes: list[Shape] = [Text(14, 18, title, 13, anchor="start", bold=True), *_legend()]
    # what is read lies above plain ink, and that above the ways in the air
    pieces = sorted(_pieces(ways), key=lambda piece: (ways[piece[0]][1] >= 0, ways[piece[0]][0]))
    shapes += [_piece(placed[first : end + 1], *ways[first]) for first, end in pieces]
    shapes.append(Circle(*placed[0], 3, "paper", "muted", "the pen begins here"))
    shapes += _labels(placed, symbols, labels)
    right = max(bounds(shapes)[2] + 14, 28 + text_width(title, 13, bold=True))
    return Figure(Scene(right, under + 24, tuple(shapes), title), _text(symbols, labels, title))


def _legend() -> list[Shape]:
    shapes: list[Shape] = []
    x = 14.0
    for name, symbol, ink in (("ink", -1, True), ("in the air", -1, False), ("a symbol is read", 0, True)):
        shapes += [_piece([(x, 38), (x + 20, 38)], ink, symbol), Text(x + 29, 38, name, 11, anchor="start")]
        x += 47 + text_width(name, 11)
    return shapes


def _pieces(ways: Sequence[tuple[bool, int]]) -> list[tuple[int, int]]:
    """Return (first, end) of the ways that look the same one after another."""
    found, first = [], 0
    for _, same in groupby(ways):
        end = first + len(list(same))
        found.append((first, end))
        first = end
    return found


def _piece(points: Sequence[Point], ink: bool, symbol: int) -> Line:
    if symbol < 0:
        return Line(tuple(points), "muted" if ink else "frame", 2.0 if ink else 1.2, dashes=() if ink else DASHED)
    return Line(tuple(points), f"series {symbol % COLOURS}", 4.5 if ink else 2.0, dashes=() if ink else DASHED)


def _labels(placed: Sequence[Point], symbols: Sequence[int], labels: Sequence[str]) -> list[Shape]:
    """Return the labels in a row above, from left to right, none over another, each with a line to where it is read."""
    places = []
    for number in sorted({symbol for symbol in symbols if symbol >= 0}):
        spots = [point for k, symbol in enumerate(symbols) if symbol == number for point in placed[k : k + 2]]
        top = min(spots, key=lambda spot: spot[1])
        places.append((sum(x for x, _ in spots) / len(spots), number, top))
    shapes: list[Shape] = []
    edge = 0.0
    for x, number, top in sorted(places):
        half = text_width(labels[number], SIZE, bold=True) / 2
        at = max(x, edge + half + 4)
        edge = at + half
        colour = f"series {number % COLOURS}"
        shapes.append(Line(((at, TOP + 30), top), colour, 0.8))
        shapes.append(Text(at, TOP + 18, labels[number], SIZE, fill=colour, bold=True))
    return shapes


def _text(symbols: Sequence[int], labels: Sequence[str], title: str) -> str:
    marks = "".join(labels[symbol] if symbol >= 0 else BLANK for symbol, _ in groupby(symbols))
    return f"{title}\n\n{marks}\n"
