"""Drawings as JSON lines: the strokes of a pen, what is drawn, and the split it belongs to."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from everloop.data.error_policy import ErrorPolicy
from everloop.data.files import parse_json
from everloop.data.lazy import Mapped, Zip
from everloop.data.ragged import Strings
from everloop.data.readers.lines import numbered, opened
from everloop.data.readers.tables import MAX_FLOAT32


class StrokeFields(NamedTuple):
    """The fields of a drawing that hold its strokes, its label, its split and who drew it."""

    strokes: str = "strokes"
    label: str = "label"
    split: str = "split"
    writer: str = "writer"


class Drawing(NamedTuple):
    """A drawing: strokes [[[x, y], …], …], what is drawn, its split, and who drew it; "" where that is not said."""

    strokes: Any
    label: str = ""
    split: str = ""
    writer: str = ""


def read_strokes(path: Path, fields: StrokeFields, errors: ErrorPolicy) -> dict[str, Sequence[tuple[str, Any]]]:
    """Return the drawings of a file by split.

    Raises:
        DataError: a line is no JSON object with these fields; the message names the line.
    """
    parts: dict[str, tuple[list[str], Strings]] = {"train": ([], Strings()), "valid": ([], Strings())}
    for drawing in read_drawings(path, fields, ("label", "split"), errors):
        labels, texts = parts.setdefault(drawing.split, ([], Strings()))
        labels.append(sys.intern(drawing.label))  # once in memory, however often it occurs
        texts.append(json.dumps(drawing.strokes))
    return {name: Zip(labels, Mapped(texts, parse_json)) for name, (labels, texts) in parts.items() if labels}


def read_drawings(path: Path, fields: StrokeFields, needed: Sequence[str], errors: ErrorPolicy) -> Iterator[Drawing]:
    """Yield the drawings of a file, in its order.

    Args:
        path: JSON lines.
        fields: what their fields are called.
        needed: which of label, split and writer a line must have.
        errors: takes lines that do not fit.
    """
    with opened(path) as file:
        for number, line in numbered(file, str(path), errors):
            if line.strip() and (found := parse_drawing(line, fields, needed, (str(path), number), errors)):
                yield found


def parse_drawing(
    line: str, fields: StrokeFields, needed: Sequence[str], where: tuple[str, int], errors: ErrorPolicy
) -> Drawing | None:
    """Return the drawing of one line; None where the line does not fit and is left out. `where`: file and line."""
    try:
        return _drawing(line, fields, needed)
    except KeyError as error:
        errors.report(*where, f"no field {error}", f"an object with {_fields(fields, needed)}")
    except (ValueError, TypeError) as error:
        errors.report(*where, str(error), f"an object with {fields.strokes} [[[x, y], …], …]")
    return None


def _fields(fields: StrokeFields, needed: Sequence[str]) -> str:
    return ", ".join(getattr(fields, name) for name in ("strokes", *needed))


def _drawing(line: str, fields: StrokeFields, needed: Sequence[str]) -> Drawing:
    content = parse_json(line)
    if not isinstance(content, dict):
        raise ValueError(f"a JSON {type(content).__name__}")
    strokes = content[fields.strokes]
    if not isinstance(strokes, list):
        raise ValueError(f"{fields.strokes} is {strokes!r}")
    for stroke in strokes:
        points = np.asarray(stroke, dtype=np.float64)
        if points.shape != (len(stroke), 2) or not (np.abs(points) <= MAX_FLOAT32).all():
            raise ValueError("a stroke is not a list of points [x, y]")
    if sum(map(len, strokes)) < 2:
        raise ValueError("a drawing needs at least two points")
    names = {name: getattr(fields, name) for name in ("label", "split", "writer")}
    said = (content[n] if w in needed else content.get(n) for w, n in names.items())
    return Drawing(strokes, *("" if value is None else str(value) for value in said))
