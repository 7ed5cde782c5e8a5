"""A picture with the places that are looked at, once for each word that is written of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from rich.cells import cell_len, set_cell_size
from torch import Tensor

from everloop.draw import pictures
from everloop.draw.figure import Figure
from everloop.draw.matrix import EDGE, SIZE, TITLE, shade, short
from everloop.draw.scene import Area, Picture, Scene, Shape, Text, text_width
from everloop.errors import OptionError

PANEL, GAP, WIDE = 92.0, 10.0, 300.0  # the longer side of a picture; between two; of a row, which a phone shows whole
FULL = 0.8  # how opaque the place is that is looked at most
COLUMNS = 80  # characters of a line in a terminal


def draw_looks(picture: Tensor, words: Sequence[str], weights: Tensor, *, stride: int, title: str) -> Figure:
    """Return a picture for each word, in which a place is the fuller coloured the more it is looked at.

    Args:
        picture: [height, width, channels] of 0 to 255.
        words: what stands below each.
        weights: [words, rows, columns], how much each place counts.
        stride: pixels between the middles of two places, the first of which is at the upper left corner.
        title: what is written above.

    Raises:
        OptionError: there is no word, or there are not as many weights.
    """
    if not words or len(weights) != len(words):
        raise OptionError(f"weights for {len(weights)} words; expected one for each of {len(words)}, and at least one")
    most = max(float(weights.max()), 1e-12)
    parts = (weights / most).cpu()
    high, wide = picture.shape[:2]
    scale = PANEL / max(high, wide)
    names = [short(word) for word in words]
    step = max(wide * scale, *(text_width(name, SIZE) for name in names)) + GAP
    columns = max(1, min(len(words), int((WIDE + GAP) / step)))
    heights, widths = _edges(high, stride, weights.shape[1]), _edges(wide, stride, weights.shape[2])
    png, shapes = pictures.png(picture), list[Shape]()
    for number, (name, part) in enumerate(zip(names, parts, strict=True)):
        x = EDGE + number % columns * step + (step - GAP - wide * scale) / 2
        y = 34 + number // columns * (high * scale + SIZE + 2 * GAP)
        shapes.append(Picture(x, y, wide * scale, high * scale, png))
        for i, j in torch.nonzero(part >= 0.02).tolist():
            left, right = (x + scale * widths[j + k] for k in (0, 1))
            top, bottom = (y + scale * heights[i + k] for k in (0, 1))
            corners = ((left, top), (right, top), (right, bottom), (left, bottom))
            shapes.append(Area(corners, "accent", round(FULL * float(part[i, j]), 2)))
        shapes.append(Text(x + wide * scale / 2, y + high * scale + 4 + SIZE / 2, name, SIZE))
    shapes.insert(0, Text(EDGE, 18, title, TITLE, anchor="start", bold=True))
    bottom = 34 + -(-len(words) // columns) * (high * scale + SIZE + 2 * GAP)
    shapes += _legend(EDGE, bottom + 5, most)
    width = max(EDGE + columns * step - GAP, EDGE + text_width(title, TITLE, True), EDGE + 190) + EDGE
    return Figure(Scene(width, bottom + 10 + EDGE, tuple(shapes), title), "\n".join([title, *_text(names, parts)]))


def _edges(size: int, stride: int, count: int) -> list[float]:
    """Return where each of `count` places begins, and the last one ends: a pixel is of the place of next middle."""
    return [0.0, *(stride * (k - 0.5) + 0.5 for k in range(1, count)), float(size)]


def _legend(x: float, y: float, most: float) -> list[Shape]:
    """Return what the colours mean, beginning at x, its middle at y."""
    begin = x + text_width("0", SIZE - 1) + 6
    shapes: list[Shape] = [Text(x, y, "0", SIZE - 1, anchor="start", fill="muted")]
    for k in range(11):
        left, right = begin + 10 * k, begin + 10 * (k + 1)
        shapes.append(Area(((left, y - 5), (right, y - 5), (right, y + 5), (left, y + 5)), "accent", FULL * k / 10))
    return [*shapes, Text(begin + 116, y, f"{most:.2g}", SIZE - 1, anchor="start", fill="muted")]


def _text(words: Sequence[str], parts: Tensor) -> Iterator[str]:
    """Yield lines of shades, the places of several words beside each other, each word below its own."""
    wide = max(2 * parts.shape[2], *map(cell_len, words)) + 2
    columns = max(1, COLUMNS // wide)
    for start in range(0, len(words), columns):
        some = range(start, min(start + columns, len(words)))
        yield ""
        for row in range(parts.shape[1]):
            drawn = ("".join(2 * shade(part) for part in parts[n, row].tolist()) for n in some)
            yield "".join(set_cell_size(cells, wide) for cells in drawn).rstrip()
        yield "".join(set_cell_size(words[n], wide) for n in some).rstrip()
