"""From pen strokes to frames: ways of about equal length along the path of the pen, on the paper and in the air."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everloop.data.lazy import Array
from everloop.errors import OptionError

FEATURES = 4  # of a frame: dx, dy, y, ink
WIDEST = 50.0  # a text that is wider than so many of its heights is a line, and its height says nothing


def pen_frames(strokes: Sequence[Any], spacing: float) -> Tensor:
    """Return frames [T, 4] of strokes, each the points [n, 2] of a line, with y growing upwards.

    A frame is a way of the pen, of about `spacing` where the height of the whole is 1: dx and dy in units of `spacing`,
    y at its end (0 in the middle of the height), and whether the pen was on the paper (1) or in the air (0). A stroke
    of one point is one frame without a way.

    Raises:
        OptionError: the spacing is not above 0.
    """
    if not spacing > 0:
        raise OptionError(f"spacing is {spacing}; expected a number above 0")
    lines = [np.asarray(stroke, dtype=np.float64).reshape(-1, 2) for stroke in strokes if len(stroke)]
    if not lines:
        return torch.zeros(0, FEATURES)
    everything = np.concatenate(lines)
    low, high = everything.min(0), everything.max(0)
    width, height = (high - low).tolist()
    scale = max(height, width / WIDEST) or 1.0
    rows, end = [], lines[0][:1]
    for number, line in enumerate(lines):
        if number and (line[0] != end[0]).any():
            rows.append(_ways(np.concatenate([end, line[:1]]) / scale, spacing, 0.0))
        rows.append(_ways(line / scale, spacing, 1.0))
        end = line[-1:]
    frames = np.concatenate(rows)
    frames[:, 2] -= (low[1] + high[1]) / 2 / scale
    return torch.from_numpy(frames.astype(np.float32))


def _ways(line: Array, spacing: float, ink: float) -> Array:
    """Return the frames of one line [n, 2], cut into ways of the same length along it."""
    lengths = np.hypot(*np.diff(line, axis=0).T)
    ends = np.concatenate([[0.0], lengths.cumsum()])
    count = max(1, round(ends[-1] / spacing))
    places = np.linspace(0, ends[-1], count + 1)
    points = np.stack([np.interp(places, ends, line[:, k]) for k in (0, 1)], 1)
    ways = np.diff(points, axis=0) / spacing
    return np.concatenate([ways, points[1:, 1:], np.full((count, 1), ink)], 1)


def path_of(frames: Tensor) -> list[tuple[float, float]]:
    """Return the points [T + 1] through which the pen went, in units of the spacing, from (0, 0) on."""
    points = torch.cat([torch.zeros(1, 2), frames[:, :2].cpu().cumsum(0)])
    return [(x, y) for x, y in points.tolist()]
