"""Drawings as JSON lines: the strokes of a pen, what is drawn, and the split it belongs to."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
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
    """The fields of a drawing that hold its strokes, its label and its split."""

    strokes: str = "strokes"
    label: str = "label"
    split: str = "split"


def read_strokes(path: Path, fields: StrokeFields, errors: ErrorPolicy) -> dict[str, Sequence[tuple[str, Any]]]:
    """Return the drawings of a file by split.

    Raises:
        DataError: a line is no JSON object with these fields; the message names the line.
    """
    parts: dict[str, tuple[list[str], Strings]] = {"train": ([], Strings()), "valid": ([], Strings())}
    with opened(path) as file:
        for number, line in numbered(file, str(path), errors):
            if not line.strip():
                continue
            try:
                label, part, strokes = _drawing(line, fields)
            except KeyError as error:
                errors.report(path, number, f"no field {error}", "an object with label, part and strokes")
                continue
            except (ValueError, TypeError) as error:
                errors.report(path, number, str(error), "an object with strokes [[[x, y], …], …]")
                continue
            labels, texts = parts.setdefault(part, ([], Strings()))
            labels.append(sys.intern(label))  # once in memory, however often it occurs
            texts.append(json.dumps(strokes))
    return {name: Zip(labels, Mapped(texts, parse_json)) for name, (labels, texts) in parts.items() if labels}


def _drawing(line: str, fields: StrokeFields) -> tuple[str, str, Any]:
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
    return str(content[fields.label]), str(content[fields.split]), strokes
