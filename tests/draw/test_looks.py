"""Pictures with the places that are looked at: each colour lies on the pixels of its place, in SVG, PNG and shades."""

from __future__ import annotations

import base64
import io
import re
from importlib import import_module

import numpy as np
import pytest
import torch

from everloop.draw import Figure, pictures
from everloop.draw.looks import FULL, PANEL, draw_looks
from everloop.draw.matrix import EDGE
from everloop.draw.scene import Area, Picture, Text
from everloop.errors import OptionError
from tests.draw.overlaps import overlaps

PICTURE = torch.arange(24 * 16, dtype=torch.uint8).view(24, 16, 1)
WORDS = ["a", "Straßenbahnhaltestellenüberdachung", "<b>", "■"]


def looks() -> torch.Tensor:
    """Return weights of 3 × 2 places for each word: one alone, all alike, two, one alone."""
    weights = torch.zeros(4, 3, 2)
    weights[0, 1, 1] = weights[3, 2, 0] = 0.5
    weights[1] = 1 / 6
    weights[2, 0, 0], weights[2, 0, 1] = 0.4, 0.1
    return weights


def drawn() -> Figure:
    return draw_looks(PICTURE, WORDS, looks(), stride=8, title="Where & what")


def coloured(figure: Figure) -> list[tuple[float, ...]]:
    """Return left, upper, right and lower edge of each place in pixels of its picture, and how opaque it is."""
    scale, found, picture = PANEL / 24, [], None
    for shape in figure.scene.shapes:
        if isinstance(shape, Picture):
            picture = shape
        elif isinstance(shape, Area) and picture is not None and shape.points[0][1] < picture.y + picture.height:
            (left, top), _, (right, bottom), _ = shape.points
            edges = (left - picture.x, top - picture.y, right - picture.x, bottom - picture.y)
            found.append((*(round(edge / scale, 3) for edge in edges), shape.opacity))
    return found


def test_colours_lie_on_the_pixels_that_are_next_to_the_middle_of_a_place() -> None:
    one, *others = coloured(drawn())
    assert one == (4.5, 4.5, 16, 12.5, FULL)  # the middle of this place is pixel 8, 8; of that before it 0, 0
    assert others[:6] == [
        (left, top, right, bottom, round(FULL / 3, 2))
        for top, bottom in ((0, 4.5), (4.5, 12.5), (12.5, 24))
        for left, right in ((0, 4.5), (4.5, 16))
    ]
    assert others[6:] == [
        (0, 0, 4.5, 4.5, round(FULL * 0.8, 2)),
        (4.5, 0, 16, 4.5, round(FULL * 0.2, 2)),
        (0, 12.5, 4.5, 24, FULL),
    ]


def test_words_stand_below_their_pictures_and_nothing_overlaps() -> None:
    figure = drawn()
    assert overlaps(figure.scene) == []
    shown = [s for s in figure.scene.shapes if isinstance(s, Picture)]
    words = [s for s in figure.scene.shapes if isinstance(s, Text)][1:5]
    assert [word.text for word in words] == ["a", "Straßenbahnhaltestell…", "<b>", "■"]
    assert [word.x for word in words] == pytest.approx([one.x + one.width / 2 for one in shown])
    assert all(one.y + one.height < word.y for one, word in zip(shown, words, strict=True))
    assert max(one.x + one.width for one in shown) <= figure.scene.width - EDGE + 1e-9


def test_svg_and_png_hold_the_picture_itself() -> None:
    figure = drawn()
    svg = figure.svg()
    assert 'role="img" aria-label="Where &amp; what"' in svg
    data = re.findall(r'href="data:image/png;base64,([^"]*)"', svg)
    assert [base64.b64decode(one) for one in data] == [pictures.png(PICTURE)] * 4
    image = import_module("PIL.Image")
    dots = np.asarray(image.open(io.BytesIO(figure.png(scale=4))).convert("RGB"))
    last = [s for s in figure.scene.shapes if isinstance(s, Picture)][3]
    step = PANEL / 24
    for row, column in ((2, 9), (9, 2), (9, 13)):  # not looked at
        x, y = (round(4 * (edge + step * (k + 0.5))) for edge, k in ((last.x, column), (last.y, row)))
        assert dots[y, x].tolist() == pytest.approx([int(PICTURE[row, column, 0])] * 3, abs=2)
    x, y = (round(4 * (edge + step * (k + 0.5))) for edge, k in ((last.x, 2), (last.y, 18)))
    red, _, blue = dots[y, x].tolist()
    assert red > blue + 60, "the place that is looked at is coloured"


def test_in_a_terminal_places_are_shades() -> None:
    figure = draw_looks(PICTURE, ["a", "■"], looks()[[0, 2]], stride=8, title="T")
    assert str(figure).splitlines() == ["T", "", "      ▓▓░░", "  ██", "", "a     ■"]
    long = str(draw_looks(PICTURE, ["word"] * 30, looks()[:1].expand(30, -1, -1), stride=8, title="T"))
    assert max(map(len, long.splitlines())) <= 80
    assert long.count("word") == 30


def test_each_word_needs_its_weights() -> None:
    for words, weights in ([], looks()[:0]), (["a"], looks()):
        with pytest.raises(OptionError, match="expected one for each of"):
            draw_looks(PICTURE, words, weights, stride=8, title="")
