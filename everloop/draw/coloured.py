"""A text whose symbols are coloured by a number each: what a unit does while it is read, or what counts in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len

from everloop.draw.figure import Figure
from everloop.draw.matrix import EDGE, TITLE, legend
from everloop.draw.scene import Rect, Scene, Shape, Text, heat, ink_on, text_width
from everloop.draw.tree import shown
from everloop.errors import OptionError

SIZE, HIGH, WIDE = 12, 20.0, 620.0
COLUMNS = 80  # characters of a line in a terminal
BARS = " ▁▂▃▄▅▆▇█"


def draw_coloured(
    symbols: Sequence[str], values: Sequence[float], *, title: str, scale: tuple[float, float] = (0.0, 1.0)
) -> Figure:
    """Return a text with each symbol on a colour: full at the upper end of the scale, another one below its lower end.

    In a terminal a bar stands above each symbol.

    Args:
        symbols: characters, or words.
        values: a number for each.
        title: what is written above.
        scale: the numbers at which there is no colour, and the full one.

    Raises:
        OptionError: there is no symbol, or there are not as many numbers.
    """
    if not symbols or len(symbols) != len(values):
        raise OptionError(f"{len(values)} numbers for {len(symbols)} symbols; expected one for each of at least one")
    parts = [(value - scale[0]) / (scale[1] - scale[0]) for value in values]
    gap = 3.0 if any(len(symbol) > 1 for symbol in symbols) else 0.0  # between words
    shapes: list[Shape] = [Text(EDGE, 18, title, TITLE, anchor="start", bold=True)]
    x, y, right = EDGE, 34.0, EDGE
    for symbol, part, value in zip(symbols, parts, values, strict=True):
        word = shown(symbol)
        wide = max(9.0, text_width(word, SIZE) + 3)
        if x > EDGE and x + wide > EDGE + WIDE:
            x, y = EDGE, y + HIGH + 3
        shapes.append(Rect(x, y, wide, HIGH, heat(part), "", 2 if gap else 0, f"{word}: {value:.3g}"))
        shapes.append(Text(x + wide / 2, y + HIGH / 2, word, SIZE, fill=ink_on(part)))
        x += wide + gap
        right = max(right, x)
        if symbol == "\n":
            x, y = EDGE, y + HIGH + 3
    bottom = y + HIGH
    shapes += legend(EDGE, bottom + 16, scale, min(parts) < 0)
    width = max(right, EDGE + 190, EDGE + text_width(title, TITLE, True)) + EDGE
    return Figure(
        Scene(width, bottom + 26 + EDGE, tuple(shapes), title), "\n".join([title, "", *_lines(symbols, parts)])
    )


def _lines(symbols: Sequence[str], parts: Sequence[float]) -> Iterator[str]:
    """Yield lines of bars, each above the symbols that they are of."""
    between = " " if any(len(symbol) > 1 for symbol in symbols) else ""
    bars = words = ""
    for symbol, part in zip(symbols, parts, strict=True):
        word = shown(symbol)
        if cell_len(words) + cell_len(word) > COLUMNS:
            yield from (bars.rstrip(), words, "")
            bars = words = ""
        bars += BARS[max(0, min(8, round(8 * abs(part))))] * cell_len(word) + between
        words += word + between
        if symbol == "\n":
            yield from (bars.rstrip(), words, "")
            bars = words = ""
    if words:
        yield from (bars.rstrip(), words, "")
