"""Pen strokes from JSON lines, each drawing scaled by itself, as steps of a pen: (dx, dy, pen)."""

from __future__ import annotations

import hashlib
import json
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everloop.data.batching.buckets import Groups, buckets, padding_fraction
from everloop.data.batching.padding import Batches, padded
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.files import parse_json
from everloop.data.lazy import Array, LazySequence, Zip
from everloop.data.ragged import RaggedArray, Strings
from everloop.data.readers.lines import numbered, opened
from everloop.data.readers.tables import LARGEST
from everloop.data.settings import setting
from everloop.errors import DataError, OptionError, unknown

PADDING = 0.2  # largest share in a batch
DRAW, MOVE, END = range(3)  # what the pen does on the way to the next point; END: the drawing is done


@dataclass(frozen=True)
class StrokesConfig:
    """Which strokes are read, and how."""

    strokes: Path | None = None
    """JSON lines (.gz is unpacked), a drawing a line."""
    stroke_field: str = "strokes"
    """Field with the strokes: [[[x, y], …], …]."""
    label_field: str = "label"
    """Field that says what is drawn."""
    part_field: str = "split"
    """Field that says to which part a drawing belongs: train or valid."""
    tolerance: float = 0.02
    """How far a line may move when points are left out; the longer side of a drawing is 1."""
    max_length: int = setting(120, old="longest")
    """Training drawings with more points are left out."""
    malformed: Malformed = "stop"
    """What to do with a line that does not fit."""


@dataclass(frozen=True)
class StrokesBatch:
    """A batch of drawings. given: labels [B]; steps: [T, B, 3] of `lengths` [B], the last of each is END."""

    given: Tensor
    steps: Tensor
    lengths: Tensor
    first: bool = True

    def to(self, device: torch.device | str) -> StrokesBatch:
        """Return the batch on a device."""
        return StrokesBatch(self.given.to(device), self.steps.to(device), self.lengths.to(device))

    @property
    def exists(self) -> Tensor:
        """Where there is a step and no padding, bool [T, B]."""
        return torch.arange(len(self.steps), device=self.lengths.device)[:, None] < self.lengths


class Strokes:
    """StrokesBatch with labels, for training and validation.

    Args:
        parts: by name ("train", "valid") the drawings: a label and strokes, each a list of points (x, y).
        config: how they are simplified.
        labels: the labels in order, for instance of a trained model; by default those of the training part.
    """

    def __init__(
        self,
        parts: Mapping[str, Sequence[tuple[str, Any]]],
        config: StrokesConfig | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        self.config, self.errors = config or StrokesConfig(), ErrorPolicy()
        if not parts.get("train") and labels is None:
            raise DataError("there are no drawings to train on; expected at least one")
        self.labels = tuple(labels or sorted({label for label, _ in parts["train"]}))
        number = {label: i for i, label in enumerate(self.labels)}
        self.parts: dict[str, Zip[int, Tensor]] = {}
        self.lengths: dict[str, Array] = {}
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
                self.parts[name], self.lengths[name] = Zip(found, rows), rows.lengths

    @classmethod
    def from_config(cls, config: StrokesConfig, labels: Sequence[str] | None = None) -> Strokes:
        """Return the drawings that a configuration describes."""
        if config.strokes is None:
            raise DataError("no strokes given; name a file of JSON lines with --strokes")
        errors = ErrorPolicy(config.malformed)
        data = cls(read_strokes(config, errors), config, labels)
        data.errors = errors
        return data

    @property
    def splits(self) -> tuple[str, ...]:
        """The parts that there are."""
        return tuple(self.parts)

    @cached_property
    def fingerprint(self) -> str:
        """A short name of exactly these drawings."""
        digest = hashlib.sha256(repr(self.labels).encode())
        for name, drawings in self.parts.items():
            for label, steps in drawings:
                digest.update(f"{name} {label} {len(steps)}".encode())
                digest.update(steps.numpy().tobytes())
        return digest.hexdigest()[:16]

    def epoch(self, split: str, number: int, *, batch: int, length: int = 0, seed: int = 0) -> Batches[StrokesBatch]:
        """Return the batches of one pass: drawings of about the same length together, in training shuffled anew."""
        if split not in self.parts:
            raise OptionError(unknown("part of the data", split, self.parts))
        drawings = self.parts[split]

        def make(group: list[int]) -> StrokesBatch:
            steps, lengths = padded([drawings.right[i] for i in group])
            return StrokesBatch(torch.tensor([drawings.left[i] for i in group]), steps, lengths)

        return Batches(self._groups(split, number, batch, seed), make)

    def _groups(self, split: str, number: int, batch: int, seed: int) -> Groups:
        order = seed * 1_000_003 + number if split == "train" else None
        return buckets(self.lengths[split], batch, seed=order, padding=PADDING)

    def notes(self, batch: int) -> list[str]:
        """Return what one should know of the data: sizes, padding, malformed lines."""
        lines = []
        for name, lengths in self.lengths.items():
            share = padding_fraction(self._groups(name, 0, batch, 0), lengths)
            lines.append(f"{name}: {len(lengths):,} drawings, {lengths.sum():,} steps, padding {share:.1%}")
        return [*lines, str(self.errors)] if self.errors.skipped else lines

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {len(drawings):,}" for name, drawings in self.parts.items())
        return f"Strokes({counts} drawings, {len(self.labels)} labels)"


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
    share = np.clip(from_first @ way / max(float(way @ way), 1e-12), 0, 1)
    away = np.hypot(*(from_first - share[:, None] * way).T)
    furthest = int(away.argmax())
    if away[furthest] <= tolerance:
        return line[[0, -1]]
    left, right = simplified(line[: furthest + 1], tolerance), simplified(line[furthest:], tolerance)
    return np.concatenate([left[:-1], right])


def read_strokes(config: StrokesConfig, errors: ErrorPolicy) -> dict[str, Sequence[tuple[str, Any]]]:
    """Return the drawings of a file by part.

    Raises:
        DataError: a line is no JSON object with these fields; the message names the line.
    """
    assert config.strokes is not None, "checked before"
    parts: dict[str, tuple[list[str], Strings]] = {"train": ([], Strings()), "valid": ([], Strings())}
    with opened(config.strokes) as file:
        for number, line in numbered(file, str(config.strokes), errors):
            if not line.strip():
                continue
            try:
                label, part, strokes = _drawing(line, config)
            except KeyError as error:
                errors.report(config.strokes, number, f"no field {error}", "an object with label, part and strokes")
                continue
            except (ValueError, TypeError) as error:
                errors.report(config.strokes, number, str(error), "an object with strokes [[[x, y], …], …]")
                continue
            labels, texts = parts.setdefault(part, ([], Strings()))
            labels.append(sys.intern(label))  # once in memory, however often it occurs
            texts.append(json.dumps(strokes))
    return {name: Zip(labels, FromJSON(texts)) for name, (labels, texts) in parts.items() if labels}


class FromJSON(LazySequence[Any]):
    """The values that texts of JSON stand for."""

    def __init__(self, texts: Strings) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def item(self, index: int) -> Any:
        return parse_json(self.texts.item(index))


def _drawing(line: str, config: StrokesConfig) -> tuple[str, str, Any]:
    content = parse_json(line)
    if not isinstance(content, dict):
        raise ValueError(f"a JSON {type(content).__name__}")
    strokes = content[config.stroke_field]
    if not isinstance(strokes, list):
        raise ValueError(f"{config.stroke_field} is {strokes!r}")
    for stroke in strokes:
        points = np.asarray(stroke, dtype=np.float64)
        if points.shape != (len(stroke), 2) or not (np.abs(points) <= LARGEST).all():
            raise ValueError("a stroke is not a list of points [x, y]")
    if sum(map(len, strokes)) < 2:
        raise ValueError("a drawing needs at least two points")
    return str(content[config.label_field]), str(content[config.part_field]), strokes
