"""Numbers in rows and columns as colours: attention, gates over a sequence, confusions, what depends on what."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from everloop.draw.figure import Figure
from everloop.draw.scene import Rect, Scene, Shape, Text, heat, ink_on, text_width
from everloop.draw.tree import shown
from everloop.errors import OptionError

SIZE, TITLE, EDGE = 11, 13, 14.0
LONGEST = 22  # characters of a name; longer ones end in …
SHADES = " ░▒▓█"


def draw_matrix(
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    row_label: str = "",
    column_label: str = "",
    scale: tuple[float, float] = (0.0, 1.0),
    words: Sequence[Sequence[str]] | None = None,
) -> Figure:
    """Return a matrix as a picture: the larger a number, the fuller its colour; below 0 it is another colour.

    Args:
        values: a row for each name of `rows`, in it a number for each name of `columns`.
        rows, columns: what stands at the left and above.
        title: what is written above.
        row_label, column_label: what the names of the rows and of the columns are.
        scale: the numbers at which there is no colour, and the full one.
        words: what is written into the cells; None: nothing, and a pointer on a cell of the SVG tells its number.

    Raises:
        OptionError: there is nothing to draw, or names and numbers are not equally many.
    """
    if not rows or not columns or len(values) != len(rows) or {len(row) for row in values} != {len(columns)}:
        sizes = sorted({len(row) for row in values})
        raise OptionError(f"a matrix of {len(values)} rows of {sizes} numbers; expected {len(rows)} of {len(columns)}")
    above, beside = [short(name) for name in columns], [short(name) for name in rows]
    parts = [[(value - scale[0]) / (scale[1] - scale[0]) for value in row] for row in values]
    inside = max((text_width(word, SIZE - 1) for row in words or () for word in row), default=0.0)
    wide = max(inside + 8, 20.0 if len(columns) <= 40 else 14.0)
    high = 20.0 if words or len(rows) <= 40 else 14.0
    upward = max(text_width(name, SIZE) for name in above) > wide - 2
    names = max(text_width(name, SIZE) for name in beside)
    left = EDGE + max(names + 8, text_width(row_label, SIZE - 1) + 8)
    head = max(text_width(name, SIZE) for name in above) if upward else SIZE + 2.0
    top = 30.0 + (16 if column_label else 0) + head + 8
    shapes: list[Shape] = [Text(EDGE, 18, title, TITLE, anchor="start", bold=True)]
    if column_label:
        shapes.append(Text(left, 36, f"{column_label} →", SIZE - 1, anchor="start", fill="muted"))
    if row_label:
        shapes.append(Text(left - 6, top - 10, f"{row_label} ↓", SIZE - 1, anchor="end", fill="muted"))
    for k, name in enumerate(above):
        x = left + (k + 0.5) * wide
        anchored = Text(x, top - 6, name, SIZE, anchor="start", upward=True)
        shapes.append(anchored if upward else Text(x, top - 6 - SIZE / 2, name, SIZE))
    for i, (name, row) in enumerate(zip(beside, parts, strict=True)):
        y = top + i * high
        shapes.append(Text(left - 6, y + high / 2, name, SIZE, anchor="end"))
        for k, part in enumerate(row):
            said = "" if words else f"{shown(rows[i])}, {shown(columns[k])}: {values[i][k]:.3g}"
            if words or heat(part) != heat(0):  # paper need not be drawn
                shapes.append(Rect(left + k * wide, y, wide - 1, high - 1, heat(part), "", 0, said))
            if words:
                place = left + k * wide + (wide - 1) / 2, y + (high - 1) / 2
                shapes.append(Text(*place, words[i][k], SIZE - 1, fill=ink_on(part)))
    bottom = top + len(rows) * high
    width = max(left + len(columns) * wide + EDGE, 2 * EDGE + text_width(title, TITLE, True))
    width = max(width, left + EDGE + text_width(f"{column_label} →", SIZE - 1))
    if not words:
        shapes += legend(left, bottom + 16, scale, any(part < 0 for row in parts for part in row))
        width, bottom = max(width, left + 190), bottom + 26
    return Figure(Scene(width, bottom + EDGE, tuple(shapes), title), _text(title, beside, above, parts, words))


def legend(x: float, y: float, scale: tuple[float, float], is_signed: bool) -> list[Shape]:
    """Return what the colours mean, beginning at x, its middle at y."""
    least = 2 * scale[0] - scale[1] if is_signed else scale[0]
    low, high = f"{least:.2g}", f"{scale[1]:.2g}"
    begin = x + text_width(low, SIZE - 1) + 6
    steps = [k / 10 for k in range(-10 if is_signed else 0, 11, 2 if is_signed else 1)]
    shapes: list[Shape] = [Text(x, y, low, SIZE - 1, anchor="start", fill="muted")]
    shapes += [Rect(begin + 10 * k, y - 5, 10, 10, heat(part), "", 0) for k, part in enumerate(steps)]
    return [*shapes, Text(begin + 10 * len(steps) + 6, y, high, SIZE - 1, anchor="start", fill="muted")]


def short(name: str, most: int = LONGEST) -> str:
    """Return a name with its spaces visible, cut where it is longer."""
    name = shown(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def shade(part: float) -> str:
    """Return the character that stands for a share in a terminal."""
    return SHADES[max(0, min(4, round(4 * abs(part))))]


def _text(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    parts: Sequence[Sequence[float]],
    words: Sequence[Sequence[str]] | None,
) -> str:
    """Return the matrix in characters; the names of columns read downwards."""
    names = max(map(cell_len, rows))
    cells = words or [[2 * shade(part) for part in row] for row in parts]
    wide = max(2, *(cell_len(cell) + 1 for row in words or () for cell in row), 0)
    high = max(map(len, columns))
    letters = [name.rjust(high) for name in columns]
    lines = [title, ""]
    for level in range(high):
        drawn = "".join(set_cell_size(name[level].rjust(wide - 1), wide) for name in letters)
        lines.append(f"{'':{names}} {drawn}".rstrip())
    for name, row in zip(rows, cells, strict=True):
        lines.append(f"{' ' * (names - cell_len(name))}{name} " + "".join(cell.rjust(wide) for cell in row).rstrip())
    return "\n".join(lines) + "\n"
