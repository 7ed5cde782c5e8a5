"""A piano roll: the notes of a piece over time, what was given and what was composed."""

from __future__ import annotations

from torch import Tensor

from everloop.data.readers.chorales import KEYS, LOWEST, PITCHES
from everloop.data.readers.midi import notes_of
from everloop.draw.figure import Figure
from everloop.draw.scene import DASHED, Line, Rect, Scene, Shape, Text, text_width
from everloop.errors import OptionError

LEFT, TOP, ROW, WIDEST, STEP = 44.0, 52.0, 8.0, 1100.0, 16.0
BEAT = 4  # steps from one vertical line to the next
BLACK = (1, 3, 6, 8, 10)  # of an octave


def draw_piano_roll(roll: Tensor, given: int, *, title: str, repeat: bool = False) -> Figure:
    """Return the notes of a piano roll [T, 88], the first `given` steps in another colour than the others.

    Raises:
        OptionError: there is no note, or there are fewer steps than were given.
    """
    if roll.dim() != 2 or not bool((roll > 0.5).any()) or not 0 <= given <= len(roll):
        raise OptionError(f"a piano roll of {len(roll)} steps, {given} of them given, cannot be drawn; expected notes")
    used = (roll > 0.5).any(0).nonzero()[:, 0]
    low, high = max(0, int(used[0]) - 2), min(KEYS - 1, int(used[-1]) + 2)
    step = min(STEP, WIDEST / len(roll))
    width, height = len(roll) * step, (high - low + 1) * ROW

    def y(key: int) -> float:
        return TOP + (high - key) * ROW

    shapes: list[Shape] = [Text(14, 18, title, 13, anchor="start", bold=True), *_legend(given, len(roll))]
    for key in range(low, high + 1):
        if (key + LOWEST) % 12 in BLACK:
            shapes.append(Rect(LEFT, y(key), width, ROW, "inside", "", 0))
        if (key + LOWEST) % 12 == 0:
            shapes.append(Line(((LEFT, y(key) + ROW), (LEFT + width, y(key) + ROW)), "grid", 1))
            shapes.append(Text(LEFT - 6, y(key) + ROW / 2, PITCHES[key], 10, anchor="end", fill="muted"))
    apart = max(BEAT, BEAT * round(text_width("0000", 10) * 2 / step / BEAT))
    for at in range(0, len(roll) + 1, BEAT):
        x = LEFT + at * step
        shapes.append(Line(((x, TOP), (x, TOP + height)), "grid", 1))
        if at % apart == 0 and at < len(roll):
            shapes.append(Text(x, TOP + height + 12, str(at + 1), 10, anchor="start", fill="muted"))
    # a held note that began before is cut where composing begins
    for first, part, colour in ((0, roll[:given], "muted"), (given, roll[given:], "series 0")):
        for note in notes_of(part, repeat=repeat):
            start, end = first + note.start, first + note.start + note.length
            name = f"{PITCHES[note.pitch - LOWEST]}, step {start + 1}" + (f" to {end}" if note.length > 1 else "")
            box = LEFT + start * step + 0.5, y(note.pitch - LOWEST) + 0.5, note.length * step - 1, ROW - 1
            shapes.append(Rect(*box, colour, "", 2, name))
    if 0 < given < len(roll):
        x = LEFT + given * step
        shapes.append(Line(((x, TOP), (x, TOP + height)), "accent", 1.4, dashes=DASHED))
    whole = max(LEFT + width + 20, 28 + text_width(title, 13, bold=True))
    return Figure(Scene(whole, TOP + height + 28, tuple(shapes), title), _text(roll, given, title, low, high))


def _legend(given: int, steps: int) -> list[Shape]:
    shapes: list[Shape] = []
    x = 14.0
    for name, colour, there in (("given", "muted", given > 0), ("composed", "series 0", given < steps)):
        if there:
            shapes += [Rect(x, 34, 18, 8, colour, "", 2), Text(x + 24, 38, name, 11, anchor="start")]
            x += 40 + text_width(name, 11)
    return shapes


def _text(roll: Tensor, given: int, title: str, low: int, high: int) -> str:
    sounds = (roll > 0.5).tolist()
    lines = [title, ""]
    for key in range(high, low - 1, -1):
        marks = "".join(("▒" if step < given else "█") if row[key] else " " for step, row in enumerate(sounds))
        lines.append(f"{PITCHES[key]:>4} │{marks}".rstrip())
    return "\n".join(lines) + "\n"
