"""Frames of pen strokes: where the pen went comes back; size, place and sampling of the tablet do not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from everloop.data.pen import FEATURES, path_of, pen_frames
from everloop.errors import OptionError

SEVEN = [[[0, 100], [60, 100], [20, 0]], [[10, 50], [50, 50]]]


def test_frames_are_ways_of_the_pen() -> None:
    frames = pen_frames([[[0, 0], [0, 10]], [[5, 10], [5, 0]]], 0.25)
    expected = [[0, 1, y, 1] for y in (-0.25, 0, 0.25, 0.5)] + [[1, 0, 0.5, 0]] * 2
    expected += [[0, -1, y, 1] for y in (0.25, 0, -0.25, -0.5)]
    torch.testing.assert_close(frames, torch.tensor(expected, dtype=torch.float32))
    assert frames.dtype == torch.float32


@pytest.mark.parametrize("spacing", [0.02, 0.08, 0.3, 5.0])
def test_the_pen_comes_by_the_ends_of_all_lines(spacing: float) -> None:
    frames = pen_frames(SEVEN, spacing)
    points = np.array(path_of(frames)) * spacing
    ink = frames[:, 3].numpy()
    assert set(ink) == {0.0, 1.0}
    ends = np.flatnonzero(np.diff(ink)) + 1
    wanted = (np.array([[20, 0], [10, 50]]) - [0, 100]) / 100
    np.testing.assert_allclose(points[ends], wanted, atol=1e-5)
    np.testing.assert_allclose(points[-1], [0.5, -0.5], atol=1e-5)
    np.testing.assert_allclose(points[1:, 1] + 0.5, frames[:, 2], atol=1e-5)
    length = np.hypot(*(frames[:, :2].numpy() * spacing).T)
    assert (length < 1.51 * spacing).all() or spacing > 1
    if spacing < 0.1:
        # cutting corners between frames loses little of the way
        wanted_length = (60 + math.hypot(40, 100) + math.hypot(10, 50) + 40) / 100
        assert length.sum() == pytest.approx(wanted_length, rel=0.05)


def test_size_place_and_how_often_the_tablet_looked_do_not_matter() -> None:
    frames = pen_frames(SEVEN, 0.1)
    moved = [[[37 * x - 1000, 37 * y + 5e6] for x, y in line] for line in SEVEN]
    torch.testing.assert_close(pen_frames(moved, 0.1), frames, rtol=1e-4, atol=1e-4)
    often = [[[x, 100.0] for x in range(61)] + [[60 - 4 * k, 100 - 10 * k] for k in range(1, 11)], SEVEN[1]]
    torch.testing.assert_close(pen_frames(often, 0.1), frames)
    tensors = [torch.tensor(line) for line in SEVEN]
    torch.testing.assert_close(pen_frames(tensors, 0.1), frames)


def test_dots_points_and_nothing() -> None:
    assert pen_frames([], 0.1).shape == pen_frames([[], []], 0.1).shape == (0, FEATURES)
    assert pen_frames([[[3, 4]]], 0.1).tolist() == [[0, 0, 0, 1]]
    dotted = pen_frames([[[0, 0], [0, 1]], [[0, 1]], [], [[0, 1.5]]], 0.5)
    assert dotted[:, 3].tolist() == [1, 1, 0, 1], "a dot where the pen stands needs no way, one above does"
    assert dotted[:, :2].sum(0).tolist() == pytest.approx([0, 1.5 / 0.5 / 1.5])
    level = pen_frames([[[0, 0], [100, 0]]], 0.5)
    assert (len(level), float(level[:, 2].abs().max())) == (100, 0.0), "a line has no height, so its width counts"


@pytest.mark.parametrize("spacing", [0.0, -1.0, math.nan])
def test_a_spacing_that_is_none(spacing: float) -> None:
    with pytest.raises(OptionError, match="expected a number above 0"):
        pen_frames(SEVEN, spacing)
