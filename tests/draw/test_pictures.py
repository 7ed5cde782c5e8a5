"""Pictures of strokes and of prediction trees."""

from __future__ import annotations

import io
import struct
import xml.etree.ElementTree as ET
import zlib

import numpy as np
import pytest
import torch
from rich.console import Console

from everloop.decode.tree import Branch, Tree
from everloop.draw.strokes import ink, png, sheet, svg
from everloop.draw.tree import colour, draw_tree, terminal
from tests.draw.overlaps import overlaps

CORNER = [torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])]
BRANCHES = Tree(
    "The <b",
    (
        Branch(1, "a", 0.6, 0.6, (Branch(2, "&", 0.9, 0.54), Branch(3, "\n", 0.1, 0.06))),
        Branch(4, " ", 0.2, 0.2, (Branch(5, "x", 1.0, 0.2, (Branch(6, "", 0.3, 0.06),)),)),
    ),
)


def test_ink_is_where_the_line_is() -> None:
    picture = ink(CORNER, size=20, border=0.25, pen=0.6)
    assert picture.shape == (20, 20)
    # y grows upwards: the way to the right is at the bottom, then the right edge is climbed
    assert float(picture[15, 8]) > 0.5
    assert float(picture[8, 15]) > 0.5
    assert float(picture[8, 8]) == 0
    assert float(picture[5, 5]) == 0
    turned = ink(CORNER, size=20, border=0.25, pen=0.6, upward=False)
    torch.testing.assert_close(turned, picture.flip(0))
    larger = [4 * line + 7 for line in CORNER]
    torch.testing.assert_close(ink(larger, size=20, border=0.25, pen=0.6), picture, rtol=0, atol=1e-4)


def test_a_dot_and_nothing_can_be_drawn() -> None:
    assert float(ink([torch.zeros(1, 2)], size=9).sum()) > 0
    assert float(ink([], size=9).sum()) == 0


def test_png_is_read_back_by_hand() -> None:
    picture = torch.rand(5, 7)
    raw = png(picture)
    assert raw.startswith(b"\x89PNG\r\n\x1a\n")
    at, chunks = 8, {}
    while at < len(raw):
        size, name = struct.unpack(">I4s", raw[at : at + 8])
        data = raw[at + 8 : at + 8 + size]
        assert struct.unpack(">I", raw[at + 8 + size : at + 12 + size])[0] == zlib.crc32(name + data)
        chunks[name], at = data, at + 12 + size
    assert struct.unpack(">IIBB", chunks[b"IHDR"][:10]) == (7, 5, 8, 0)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(5, 8)
    np.testing.assert_allclose(rows[:, 1:], 255 * (1 - picture.numpy()), atol=0.51)


def test_sheets_and_svg_have_a_place_for_each() -> None:
    pictures = [torch.full((4, 4), float(n)) for n in range(5)]
    whole = sheet(pictures, columns=3)
    assert whole.shape == (8, 12)
    assert float(whole[5, 5]) == 4
    assert float(whole[5, 9]) == 0
    root = ET.fromstring(svg([CORNER, CORNER * 2, CORNER], columns=2, size=30))
    assert (root.get("width"), root.get("height")) == ("60", "60")
    shapes = [e for e in root.iter() if e.tag.endswith("polyline")]
    assert len(shapes) == 4
    xs = [float(spot.split(",")[0]) for spot in (shapes[1].get("points") or "").split()]
    assert min(xs) > 30


def test_the_terminal_shows_every_symbol_and_its_probability() -> None:
    console = Console(width=80, record=True, force_terminal=True, file=io.StringIO())
    console.print(terminal(BRANCHES))
    lines = console.export_text().splitlines()
    assert lines[0] == "The <b"
    assert any("a 60%" in line and "60.00%" in line for line in lines)
    assert any("⏎ 10%" in line and "6.00%" in line for line in lines)
    # a branch with a single child goes on in its line, down to the end of the sequence
    assert any("␣ 20%  x 100%  ■ 30%   6.00%" in line for line in lines)
    assert len(lines) == 5


@pytest.mark.parametrize(("probability", "name"), [(0.9, "green"), (0.3, "yellow"), (0.01, "red")])
def test_colours(probability: float, name: str) -> None:
    assert colour(probability) == name


def test_the_picture_of_a_tree_is_xml_with_all_branches() -> None:
    figure = draw_tree(BRANCHES)
    root = ET.fromstring(figure.svg())
    texts = ["".join(e.itertext()) for e in root.iter() if e.tag.endswith("text")]
    assert texts == ["a", "60%", "&", "90%", "⏎", "10%", "␣", "20%", "x", "100%", "■", "30%", *texts[-2:]]
    assert texts[-2:] == ["The <b", "What may come after The <b"]
    titles = ["".join(e.itertext()) for e in root.iter() if e.tag.endswith("title")]
    assert "54.000% from the prompt" in titles
    lines = [e for e in root.iter() if e.tag.endswith("polyline")]
    widths = [float(e.get("stroke-width", "0")) for e in lines]
    assert len(widths) == 6
    assert max(widths) == widths[0]
    assert str(figure).splitlines()[0] == "The <b"
    assert "␣ 20%  x 100%  ■ 30%   6.00%" in str(figure)


def test_long_words_of_a_tree_do_not_meet() -> None:
    words = ("Straßenbahnhaltestelle", "a", "<antidisestablishmentarianism>")
    inner = tuple(Branch(k, word, 0.3, 0.1) for k, word in enumerate(words))
    tree = Tree("Once upon a time", tuple(Branch(k, word, 0.3, 0.3, inner) for k, word in enumerate(words)))
    figure = draw_tree(tree)
    assert [found for found in overlaps(figure.scene) if "line" not in found] == []
    assert figure.png("dark", scale=0.5).startswith(b"\x89PNG")
