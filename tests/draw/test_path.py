"""The path of a pen: ink, air and what is read, each in its colour; labels beside each other."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from everloop.draw.path import draw_path
from everloop.draw.scene import Line, Text
from everloop.errors import OptionError
from tests.draw.overlaps import overlaps

POINTS = [(0.0, 0.0), (0.0, 2.0), (1.0, 2.0), (2.0, 0.0), (3.0, 2.0)]


def test_each_way_has_its_look() -> None:
    figure = draw_path(POINTS, [True, False, True, True], [-1, -1, -1, 0], ["<"], title="read as <")
    lines = [shape for shape in figure.scene.shapes if isinstance(shape, Line)][3:]  # behind the legend
    looks = [(line.stroke, bool(line.dashes), line.width) for line in lines]
    assert looks == [("frame", True, 1.2), ("muted", False, 2.0), ("muted", False, 2.0), ("series 0", False, 4.5),
                     ("series 0", False, 0.8)]  # fmt: skip
    air, first, second, read, leader = (line.points for line in lines)
    assert first[0][0] == first[1][0]
    assert first[0][1] > first[1][1], "y grows upwards"
    assert air == (first[1], second[0])
    assert read == (second[1], (read[1][0], air[0][1]))
    assert leader[1] == read[1], "to the highest point that is read"
    assert figure.text == "read as <\n\n·<\n"
    ET.fromstring(figure.svg("dark"))


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_labels_stand_beside_each_other(count: int) -> None:
    ways = max(1, count)
    points = [(float(k % 2), float(k % 3)) for k in range(ways + 1)]
    symbols = list(range(count)) or [-1]
    figure = draw_path(points, [False] * ways, symbols, ["W"] * count, title="a long title " * 9)
    assert [found for found in overlaps(figure.scene) if found.startswith("text")] == []
    assert sum(isinstance(s, Text) and s.text == "W" for s in figure.scene.shapes) == count


@pytest.mark.parametrize("points", [[(0.0, 0.0), (0.0, 0.0)], [(5.0, 5.0), (9e5, 5.0)], [(0.0, 0.0), (0.0, 1e-5)]])
def test_dots_and_lines(points: list[tuple[float, float]]) -> None:
    scene = draw_path(points, [True], [0], ["."], title="").scene
    assert scene.width < 1100
    assert scene.height < 260


def test_what_is_refused() -> None:
    for points, ink, symbols in (
        ([], [], []),
        (POINTS[:1], [], []),
        (POINTS, [True] * 3, [0] * 4),
        (POINTS, [True] * 4, []),
    ):
        with pytest.raises(OptionError, match="expected at least one way, and a point more than ways"):
            draw_path(points, ink, symbols, "", title="")
