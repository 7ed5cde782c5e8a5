"""Pen strokes from JSON lines, each drawing scaled by itself, as steps of a pen: (dx, dy, pen)."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everloop.data.batching.batch import Batch, sequence_mask
from everloop.data.batching.padding import padded
from everloop.data.dataset import SequenceDataset
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.lazy import Zip
from everloop.data.ragged import RaggedArray
from everloop.data.readers.strokes import StrokeFields, read_strokes
from everloop.data.settings import setting
from everloop.errors import DataError, OptionError, unknown

DRAW, MOVE, END = range(3)  # what the pen does on the way to the next point; END: the drawing is done


@dataclass(frozen=True, kw_only=True)
class DrawingFields:
    """What the fields of drawings are called."""

    stroke_field: str = "strokes"
    """Field with the strokes: [[[x, y], …], …]."""
    label_field: str = "label"
    """Field that says what is drawn."""
    split_field: str = setting("split", old="part_field")
    """Field that says to which split a drawing belongs: train or valid."""


@dataclass(frozen=True)
class StrokesConfig(DrawingFields):
    """Which strokes are read, and how."""

    strokes: Path | None = None
    """JSON lines (.gz is unpacked), a drawing a line."""
    tolerance: float = 0.02
    """How far a line may move when points are left out; the longer side of a drawing is 1."""
    max_length: int = setting(120, old="longest")
    """Training drawings with more points are left out."""
    malformed: Malformed = "stop"
    """What to do with a line that does not fit."""

    @property
    def fields(self) -> StrokeFields:
        """The names of the fields."""
        return StrokeFields(self.stroke_field, self.label_field, self.split_field)


@dataclass(frozen=True)
class StrokesBatch(Batch):
    """A batch of drawings. given: labels [B]; steps: [T, B, 3] of `lengths` [B], the last of each is END."""

    given: Tensor
    steps: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """Where there is a step and no padding, bool [T, B]."""
        return sequence_mask(self.lengths, len(self.steps))


class Strokes(SequenceDataset[tuple[int, Tensor], StrokesBatch]):
    """Drawings with labels. An item is (label number, steps of the pen [T, 3]).

    Args:
        parts: by name ("train", "valid") the drawings: a label and strokes, each a list of points (x, y).
        config: how they are simplified.
        labels: the labels in order, for instance of a trained model; by default those of the training split.
    """

    unit = "drawings"

    def __init__(
        self,
        parts: Mapping[str, Sequence[tuple[str, Any]]],
        config: StrokesConfig | None = None,
        labels: Sequence[str] | None = None,
        errors: ErrorPolicy | None = None,
    ) -> None:
        super().__init__(config or StrokesConfig(), errors)
        if not parts.get("train") and labels is None:
            raise DataError("there are no drawings to train on; expected at least one")
        self.labels = tuple(labels or sorted({label for label, _ in parts["train"]}))
        number = {label: i for i, label in enumerate(self.labels)}
        self.items, self.lengths = {}, {}
        for name, drawings in parts.items():
            found, rows = array("q"), RaggedArray("float32", 3)
            for label, strokes in drawings:
                if label not in number:
                    raise DataError(unknown("label", label, self.labels))
                steps = steps_of(strokes, self.config.tolerance)
                if name != "train" or len(steps) <= self.config.max_length:
                    found.append(number[label])
                    rows.append(steps)
            if found:
                self.items[name], self.lengths[name] = Zip(found, rows), rows.lengths

    @classmethod
    def from_config(cls, config: StrokesConfig, labels: Sequence[str] | None = None) -> Strokes:
        """Return the drawings that a configuration describes."""
        if config.strokes is None:
            raise DataError("no strokes given; name a file of JSON lines with --strokes")
        errors = ErrorPolicy(config.malformed)
        return cls(read_strokes(config.strokes, config.fields, errors), config, labels, errors)

    def content(self) -> Iterator[bytes]:
        yield repr(self.labels).encode()
        for name, items in self.items.items():
            for label, steps in items:
                yield f"{name} {label} {len(steps)}".encode()
                yield steps.numpy().tobytes()

    def collate(self, items: Sequence[tuple[int, Tensor]]) -> StrokesBatch:
        steps, lengths = padded([steps for _, steps in items])
        return StrokesBatch(torch.tensor([label for label, _ in items]), steps, lengths)

    def sizes(self, split: str) -> Sequence[str]:
        return (f"{self.lengths[split].sum():,} steps",)

    def summary(self) -> str:
        return f"{len(self.labels)} labels"


def steps_of(strokes: Any, tolerance: float) -> Tensor:
    """Return a drawing as steps [T, 3]: the way (dx, dy) from the point before, and what the pen does on it.

    The drawing is scaled so that its longer side is 1, and points are left out as far as no line moves by more than
    `tolerance`. The first point is the origin; the last step is END and goes nowhere.
    """
    if tolerance < 0:
        raise OptionError(f"tolerance is {tolerance}; expected 0 or more")
    lines = [np.asarray(stroke, dtype=np.float64).reshape(-1, 2) for stroke in strokes if len(stroke)]
    everything = np.concatenate(lines)
    side = max(float(np.ptp(everything, axis=0).max()), 1e-9)
    points, pens = [], []
    for line in lines:
        simple = simplified(line / side, tolerance)
        points.append(simple)
        pens += [MOVE] + [DRAW] * (len(simple) - 1)
    ways = np.diff(np.concatenate(points), axis=0)
    rows = np.concatenate([ways, np.array(pens[1:], dtype=np.float64)[:, None]], 1)
    return torch.from_numpy(np.concatenate([rows, [[0, 0, END]]]).astype(np.float32))


def lines_of(steps: Tensor) -> list[Tensor]:
    """Return steps [T, 3] as lines, each the points [n, 2] of a stroke."""
    spot = torch.zeros(2)
    lines = [[spot]]
    for dx, dy, pen in steps.tolist():
        if pen == END:
            break
        spot = spot + torch.tensor([dx, dy])
        if pen == MOVE:
            lines.append([])
        lines[-1].append(spot)
    return [torch.stack(line) for line in lines]


def simplified(line: Any, tolerance: float) -> Any:
    """Return a line [n, 2] with fewer points, none of the others further away from it than `tolerance`.

    Ramer, "An iterative procedure for the polygonal approximation of plane curves", 1972; Douglas and Peucker 1973.
    """
    if len(line) < 3:
        return line
    way = line[-1] - line[0]
    from_first = line - line[0]
    fraction = np.clip(from_first @ way / max(float(way @ way), 1e-12), 0, 1)
    away = np.hypot(*(from_first - fraction[:, None] * way).T)
    furthest = int(away.argmax())
    if away[furthest] <= tolerance:
        return line[[0, -1]]
    left, right = simplified(line[: furthest + 1], tolerance), simplified(line[furthest:], tolerance)
    return np.concatenate([left[:-1], right])
