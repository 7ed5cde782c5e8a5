"""Matrices, coloured texts: what is drawn is what was given, nothing overlaps, long and foreign names too."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from everloop.draw import Figure
from everloop.draw.coloured import draw_coloured
from everloop.draw.curves import Curve, draw_curves
from everloop.draw.matrix import LONGEST, draw_matrix
from everloop.draw.scene import Rect, Text, colour, heat, text_width, variables
from everloop.errors import OptionError
from tests.draw.overlaps import overlaps

NAMES = ["ein", "Straßenbahnhaltestellenüberdachung", "<script>alert(1)</script>", "很好", " ", "\n"]
VALUES = [[(3 * i + 5 * k) % 7 / 7 for k in range(len(NAMES))] for i in range(4)]


def texts(figure: Figure) -> list[str]:
    root = ET.fromstring(figure.svg())
    return ["".join(e.itertext()) for e in root.iter() if e.tag.endswith("text")]


def on_paper(figure: Figure) -> list[str]:
    """Return what overlaps, but for words that stand on the colour that they are about."""
    return [found for found in overlaps(figure.scene) if "boxes" not in found]


@pytest.mark.parametrize("with_words", [False, True])
def test_a_matrix_shows_each_name_and_each_number(with_words: bool) -> None:
    words = [[f"{value:.2f}" for value in row] for row in VALUES] if with_words else None
    figure = draw_matrix(VALUES, NAMES[:4], NAMES, title="T & t", row_label="true", column_label="given", words=words)
    assert on_paper(figure) == []
    shown = texts(figure)
    assert next(word for word in shown if word.startswith("<script>")) == f"{NAMES[2][: LONGEST - 1]}…"
    assert {"ein", "Straßenbahnhaltestell…", "很好", "␣", "⏎", "T & t"} <= set(shown)
    assert all(len(word) <= LONGEST for word in shown if word not in ("T & t",))
    cells = [s for s in figure.scene.shapes if isinstance(s, Rect) and s.fill.startswith("heat")][: 4 * len(NAMES)]
    coloured = [heat(value) for row in VALUES for value in row if words or value]
    assert [cell.fill for cell in cells][: len(coloured)] == coloured
    if words:
        assert [word for row in words for word in row if word not in shown] == []
    else:
        assert cells[0].title == f"ein, {NAMES[1]}: {VALUES[0][1]:.3g}"
    lines = str(figure).splitlines()
    assert lines[0] == "T & t"
    assert len(lines) == 2 + LONGEST + 4


def test_a_matrix_needs_as_many_names_as_numbers() -> None:
    for values, rows, columns in ([[1.0]], ["a", "b"], ["c"]), ([[1.0]], ["a"], ["b", "c"]), ([], [], []):
        with pytest.raises(OptionError, match="expected"):
            draw_matrix(values, rows, columns, title="")


def test_a_coloured_text_breaks_its_lines_and_keeps_every_symbol() -> None:
    symbols = list("The quick\nbrown fox. " * 12)
    values = [(k % 21 - 10) / 10 for k in range(len(symbols))]
    figure = draw_coloured(symbols, values, title="Unit 3")
    assert on_paper(figure) == []
    assert "".join(texts(figure)[1:-2]) == "".join(symbols).replace(" ", "␣").replace("\n", "⏎")
    fills = [s.fill for s in figure.scene.shapes if isinstance(s, Rect)]
    assert fills[: len(symbols)] == [heat(value) for value in values]
    bars, words = str(figure).splitlines()[2:4]
    assert words == "The␣quick⏎"
    assert bars == "█▇▆▆▅▄▃▂▂▁"
    names = ["a", "wonderful", "很好"] * 9
    assert on_paper(draw_coloured(names, [0.5] * 27, title="T")) == []
    with pytest.raises(OptionError, match="1 numbers for 2 symbols"):
        draw_coloured(["a", "b"], [1.0], title="")


def test_an_axis_need_not_begin_at_0() -> None:
    for from_zero, least in ((True, 0), (False, 1000)):
        curves = {"loss": Curve(range(3), [1000, 1001, 1002])}
        figure = draw_curves(curves, title="t", x_label="x", y_label="y", from_zero=from_zero)
        labels = [s for s in figure.scene.shapes if isinstance(s, Text) and s.anchor == "end"]
        assert float(labels[0].text) == least


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pictures_of_both_themes_and_for_a_page(theme: str) -> None:
    names = ["<", "Straße", "c", "d"]  # fonts with Chinese letters are not everywhere
    figure = draw_matrix([row[:4] for row in VALUES], names, names, title="t")
    assert colour("paper", theme) in figure.svg(theme)  # type: ignore[arg-type]
    assert figure.png(theme, scale=0.5).startswith(b"\x89PNG")  # type: ignore[arg-type]
    page = figure.inline()
    used = set(re.findall(r"var\((--[\w-]+)\)", page))
    assert used
    assert used <= set(variables(theme)), "the style sheet sets every colour that a picture uses"  # type: ignore[arg-type]
    assert not re.search(r"#[0-9a-f]{6}", page)


def test_colours_of_numbers() -> None:
    assert colour(heat(0), "light") == colour("paper", "light")
    assert colour(heat(1), "dark") == colour(heat(7.5), "dark") == colour("series 0", "dark")
    assert colour(heat(-1), "light") == colour("series 1", "light")
    assert len({colour(heat(k / 20), "light") for k in range(-20, 21)}) == 41


def test_wide_letters_are_given_their_room() -> None:
    assert text_width("很好", 10) == pytest.approx(20.4)
    assert text_width("e\u0301", 10) == text_width("e", 10)


def test_a_text_that_reads_upward_has_a_box_that_does() -> None:
    left, top, right, bottom = Text(50, 40, "word", 10, anchor="start", upward=True).box
    assert (left, right, bottom) == (45, 55, 40)
    assert bottom - top == pytest.approx(text_width("word", 10))


def test_a_curve_of_one_point_has_a_mark() -> None:
    curves = {"training": Curve([1, 2, 3], [3.0, 2.0, 1.5]), "validation": Curve([3], [1.8])}
    figure = draw_curves(curves, title="t", x_label="x", y_label="y")
    assert figure.svg().count("<circle") == 1
