"""Piano rolls: a box for each note, in its place and colour; nothing over another."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
import torch

from everloop.data.readers.chorales import piano_roll
from everloop.draw.piano_roll import LEFT, draw_piano_roll
from everloop.draw.scene import Rect, Text
from everloop.errors import OptionError
from tests.draw.overlaps import overlaps

PIECE = piano_roll([[60, 64], [60], [60, 72], []], "a piece")


def test_each_note_is_a_box() -> None:
    figure = draw_piano_roll(PIECE, 2, title="two & two")
    notes = {shape.title: shape for shape in figure.scene.shapes if isinstance(shape, Rect) and shape.title}
    assert {title: note.fill for title, note in notes.items()} == {
        "C4, step 1 to 2": "muted", "E4, step 1": "muted", "C4, step 3": "series 0", "C5, step 3": "series 0",
    }  # fmt: skip
    low, third, octave = (notes[t] for t in ("C4, step 1 to 2", "E4, step 1", "C5, step 3"))
    assert low.x - LEFT == pytest.approx(0.5)
    assert low.width + 1 == pytest.approx(2 * (third.width + 1))
    assert (low.y - third.y) / 4 == pytest.approx((low.y - octave.y) / 12)
    ET.fromstring(figure.svg("dark"))
    assert figure.text.splitlines()[2:] == [
        "  D5 │", " C#5 │", "  C5 │  █", "  B4 │", " A#4 │", "  A4 │", " G#4 │", "  G4 │", " F#4 │", "  F4 │",
        "  E4 │▒", " D#4 │", "  D4 │", " C#4 │", "  C4 │▒▒█", "  B3 │", " A#3 │",
    ]  # fmt: skip
    struck = draw_piano_roll(PIECE, 2, title="", repeat=True).scene.shapes
    assert sum(isinstance(shape, Rect) and bool(shape.title) for shape in struck) == 5


@pytest.mark.parametrize(("steps", "given"), [(1, 0), (1, 1), (33, 7), (900, 300)])
def test_nothing_lies_over_another(steps: int, given: int) -> None:
    roll = torch.zeros(steps, 88)
    roll[::2, (0, 40, 87)] = 1
    figure = draw_piano_roll(roll, given, title="a long name of a piece of music, in a file with a long name.mid")
    assert [found for found in overlaps(figure.scene) if "text" in found] == []
    assert figure.scene.width < 1250
    boxes = sorted((s.y, s.x, s.width) for s in figure.scene.shapes if isinstance(s, Rect) and s.title)
    assert all(a[1] + a[2] <= b[1] for a, b in pairwise(boxes) if a[0] == b[0])
    assert ("composed" in [s.text for s in figure.scene.shapes if isinstance(s, Text)]) is (given < steps)


def test_what_is_refused() -> None:
    for roll, given in ((torch.zeros(4, 88), 2), (PIECE, 5), (PIECE, -1), (PIECE[:0], 0), (PIECE[0], 0)):
        with pytest.raises(OptionError, match="cannot be drawn; expected notes"):
            draw_piano_roll(roll, given, title="")
