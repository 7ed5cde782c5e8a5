"""The figure of a model: rolled up, with a loop at each layer, or unrolled over time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from everloop.draw.figure import Figure
from everloop.draw.levels import Level
from everloop.draw.outline_text import dot, mermaid, text
from everloop.draw.rows import BETWEEN, BOX, BUS, GAP, SIDE, SIZE, SMALL, Column, Lane, lanes_of
from everloop.draw.scene import DASHED, Anchor, Line, Point, Rect, Scene, Shape, Text, bounds, moved, text_width
from everloop.errors import OptionError
from everloop.layers import Recurrent
from everloop.models.model import Model
from everloop.models.outline import Outline, Strand


def draw_network(model: nn.Module, *, steps: int = 0) -> Figure:
    """Return the figure of a model, labelled with its own names and sizes.

    Args:
        model: a model of `everloop.models`, or layers (Recurrent).
        steps: how many time steps are drawn beside each other; 0 draws it rolled up, with a loop at each layer.

    Raises:
        OptionError: steps is 1 or below 0, or the model says nothing of what it is made of.
    """
    if steps < 0 or steps == 1:
        raise OptionError(f"steps is {steps}; expected 0 (rolled up), or 2 and more")
    if isinstance(model, Recurrent):
        outline = Outline("layers", "N → N", (Strand(model, "x", "y"),))
    elif isinstance(model, Model):
        outline = model.outline()
    else:
        raise OptionError(f"a figure of a network: got {type(model).__name__}; expected a Model or Recurrent layers")
    lanes = lanes_of(outline, steps)
    return Figure(_scene(outline, lanes, bool(steps)), text(outline), dot(outline), mermaid(outline))


def _scene(outline: Outline, lanes: list[Lane], unrolled: bool) -> Scene:
    labels = 0.0
    if unrolled:
        labels = max(text_width(text, SMALL) for _, text in _labels(outline, lanes[0])) + 18
    x = labels
    if len(lanes) == 2 and lanes[0].levels[0].directions == 2:
        x += 14 + 7 * len(lanes[0].levels)  # for the ways around the encoder
    for number, lane in enumerate(lanes):
        given = lane.strand.given
        wide = 0.0 if given is None else 2 * _given_half(lane) + BETWEEN
        if number:
            wide += 2 * _bridge_half(outline) + BETWEEN
        x += wide
        for column in lane.columns:
            half = 8.0 if column.is_gap else max(lane.width, _ends(lane))
            x += half
            column.x = x
            x += half + BETWEEN
    shapes: list[Shape] = []
    for lane in lanes:
        shapes += _lane(outline, lane, unrolled)
    if len(lanes) == 2:
        shapes += _bridge(outline, *lanes)
    if outline.attention:
        shapes += _attention_to_given(lanes[0]) if outline.attends_to_given else _attention(*lanes)
    if unrolled:
        shapes += [_label(text, 0, y, "start") for y, text in _labels(outline, lanes[0])]
        if len(lanes) == 2:
            shapes += [_label(text, x, y, "start") for y, text in _labels(outline, lanes[1])]
    left, top, right, bottom = bounds(shapes)
    title = f"{outline.name}: {outline.topology}"
    if outline.context:
        title += f", context: {outline.context.replace('-', ' ')}"
    if (last := lanes[-1].strand).given is not None:
        title += f", {last.given_name} {outline.when_given}"
    shapes.append(Text(left, top - 22, title, 14, anchor="start", bold=True))
    width = max(right - left, text_width(title, 14, True))
    return Scene(width + 32, bottom - top + 66, moved(shapes, 16 - left, 50 - top), title)


def _ends(lane: Lane) -> float:
    """Return half the width of what is written below and above a column."""
    words = [lane.strand.reads, lane.strand.writes]
    return max(Text(0, 0, word, SMALL, "t+1").width for word in words) / 2 + 2


def _label(text: str, x: float, y: float, anchor: Anchor) -> Text:
    return Text(x, y, text, SMALL, anchor=anchor, fill="muted")


def _labels(outline: Outline, lane: Lane) -> list[tuple[float, str]]:
    """Return the names and sizes of the rows of a lane, with their heights."""
    strand, found = lane.strand, list[tuple[float, str]]()
    befores, afters = iter(strand.before), iter(strand.after)
    for (row, k), y in lane.rows.items():
        if row == "before":
            found.append((y, str(next(befores))))
        elif row == "layer":
            found.append((y, f"layer {k + 1}: {lane.levels[k]}" if len(lane.levels) > 1 else str(lane.levels[k])))
        elif row == "attention":
            found.append((y, str(outline.attention)))
        elif row == "pooling":
            found.append((y, f"pooling: {strand.pooling}"))
        elif row == "after":
            found.append((y, str(next(afters))))
    return found


def _lane(outline: Outline, lane: Lane, unrolled: bool) -> list[Shape]:
    shapes = [shape for column in lane.steps for shape in _column(outline, lane, column, unrolled)]
    for k, level in enumerate(lane.levels):
        side = 1 if lane.strand is outline.strands[-1] else -1  # an encoder hands its states on to the right
        shapes += _over_time(lane, k, level) if unrolled else _loops(lane, k, level, side)
    if lane.strand.pooling:
        shapes += _pooled(lane)
    if lane.strand.feeds_back and unrolled:
        shapes += _fed_back(lane)
    if lane.strand.given is not None:
        shapes += _given(lane)
    return shapes


def _column(outline: Outline, lane: Lane, column: Column, unrolled: bool) -> list[Shape]:
    """Return what one time step goes through, from the bottom up."""
    strand, x = lane.strand, column.x
    y = lane.rows["input", 0]
    time = _before(column.name) if strand.feeds_back else column.name
    shapes: list[Shape] = [Text(x, y, strand.reads, SMALL, time)]
    top = y - 9
    attention = iter([outline.attention] if outline.attention else [])
    blocks = {"before": iter(strand.before), "attention": attention, "after": iter(strand.after)}
    for (row, k), y in list(lane.rows.items())[1:]:
        if strand.pooling and row == "pooling":
            break
        if row == "output":
            shapes += [_up(x, top, y + 9), Text(x, y, strand.writes, SMALL, column.name)] if strand.writes else []
            continue
        text = _cell_text(lane, k, unrolled)
        if row == "layer" and lane.levels[k].directions == 2:
            shapes += _both(lane, x, top, y, text)
            top = y - BOX - SIDE / 2 - 10
            continue
        half = lane.half
        if row != "layer":
            block = next(blocks[row])
            text = block.name if unrolled else str(block)
            half = max(half, text_width(text, SMALL) / 2 + 6)
        fill = {"layer": "gate", "attention": "linear"}.get(row, "map")
        shapes += [_up(x, top, y + BOX / 2), *_box(x, y, half, text, fill)]
        top = y - BOX / 2
    return shapes


def _before(name: str) -> str:
    return str(int(name) - 1) if name.isdigit() else f"{name}−1"


def _cell_text(lane: Lane, k: int, unrolled: bool) -> str:
    level = lane.levels[min(k, len(lane.levels) - 1)]
    return level.cell if unrolled else f"{level.cell} {level.reads} → {level.writes}"


def _up(x: float, below: float, above: float) -> Line:
    return Line(((x, below), (x, above)), arrow=True)


def _box(x: float, y: float, half: float, text: str, fill: str) -> list[Shape]:
    size = min(SIZE, SIZE * (2 * half - 6) / max(1.0, text_width(text, SIZE)))
    return [Rect(x - half, y - BOX / 2, 2 * half, BOX, fill), Text(x, y, text, round(size, 1))]


def _both(lane: Lane, x: float, top: float, y: float, text: str) -> list[Shape]:
    """Return a pair of directions: the one ahead lower on the left, the one back higher on the right."""
    low, high = y + (BOX + SIDE) / 2, y - (BOX + SIDE) / 2
    left, right = x - lane.half - SIDE / 4, x + lane.half + SIDE / 4
    fork, join = top - GAP / 2, high - BOX / 2 - 10
    shapes: list[Shape] = [Line(((x, top), (x, fork)))]
    shapes += [Line(((x, fork), (left, fork), (left, low + BOX / 2)), arrow=True)]
    shapes += [Line(((x, fork), (right, fork), (right, high + BOX / 2)), arrow=True)]
    shapes.append(Line(((left, low - BOX / 2), (left, join), (x, join))))
    shapes.append(Line(((right, high - BOX / 2), (right, join), (x, join))))
    return [*shapes, *_box(left, low, lane.half, text, "gate"), *_box(right, high, lane.half, text, "gate")]


def _spots(lane: Lane, k: int, column: Column) -> list[Point]:
    """Return the middles of the cells of a level in a column: one, or the one ahead and the one back."""
    y = lane.rows["layer", k]
    if lane.levels[k].directions == 1:
        return [(column.x, y)]
    shift = (BOX + SIDE) / 2
    return [(column.x - lane.half - SIDE / 4, y + shift), (column.x + lane.half + SIDE / 4, y - shift)]


def _over_time(lane: Lane, k: int, level: Level) -> list[Shape]:
    """Return the arrows of the states from step to step, named once."""
    shapes: list[Shape] = []
    for number, (a, b) in enumerate(pairwise(lane.columns)):
        for way in range(level.directions):
            start = a.x + 9 if a.is_gap else _spots(lane, k, a)[way][0] + lane.half
            end = b.x - 9 if b.is_gap else _spots(lane, k, b)[way][0] - lane.half
            y = _spots(lane, k, lane.columns[0])[way][1]
            points = ((start, y), (end, y)) if way == 0 else ((end, y), (start, y))
            shapes.append(Line(points, arrow=True))
            names = ", ".join(level.states)
            room = (end - start) / 2 if lane.strand.feeds_back else end - start  # where no dashed line comes down
            if number == 0 and text_width(names, SMALL) < room - 6:
                shapes.append(Text(start + room / 2, y - 8, names, SMALL))
    gaps = [c for c in lane.columns if c.is_gap]
    return [*shapes, *(Text(c.x, spot[1], "…", SIZE) for c in gaps for spot in _spots(lane, k, c))]


def _loops(lane: Lane, k: int, level: Level, free: int) -> list[Shape]:
    """Return the loop of each direction, at its free side."""
    shapes: list[Shape] = []
    for way, (x, y) in enumerate(_spots(lane, k, lane.columns[0])):
        side = free if level.directions == 1 else 2 * way - 1
        edge, out = x + side * lane.half, x + side * (lane.half + 16)
        points = ((edge, y - 7), (out, y - 7), (out, y + 7), (edge, y + 7))
        names = ", ".join(level.states) + ("" if level.directions == 1 else " →" if way == 0 else " ←")
        anchor: Anchor = "start" if side > 0 else "end"
        shapes += [Line(points, arrow=True), Text(out + side * 5, y, names, SMALL, anchor=anchor)]
    return shapes


def _pooled(lane: Lane) -> list[Shape]:
    """Return how the steps become one vector, and what becomes of it."""
    level, top = lane.levels[-1], lane.rows["layer", len(lane.levels) - 1]
    two = level.directions == 2
    start = top - (BOX + SIDE / 2 + 10 if two else BOX / 2)
    last, y = lane.columns[-1], lane.rows["pooling", 0]
    used = lane.steps if lane.strand.pooling != "last" else [lane.steps[0], last] if two else [last]
    bus = y + BOX / 2 + BUS
    shapes: list[Shape] = [Line(((c.x, start), (c.x, bus), (last.x, bus))) for c in used if c is not last]
    shapes += [_up(last.x, start, y + BOX / 2), *_box(last.x, y, lane.half, lane.strand.pooling, "linear")]
    above = y - BOX / 2
    for k, block in enumerate(lane.strand.after):
        y = lane.rows["after", k]
        text = block.name if len(lane.columns) > 1 else str(block)
        shapes += [_up(last.x, above, y + BOX / 2), *_box(last.x, y, lane.half, text, "map")]
        above = y - BOX / 2
    y = lane.rows["output", 0]
    return [*shapes, _up(last.x, above, y + 9), Text(last.x, y, lane.strand.writes, SMALL)]


def _fed_back(lane: Lane) -> list[Shape]:
    """Return the dashed ways from what a step writes to what the next one reads."""
    shapes: list[Shape] = []
    top, bottom = lane.rows["output", 0], lane.rows["input", 0]
    out, into = (Text(0, 0, word, SMALL, "t+1").width / 2 + 2 for word in (lane.strand.writes, lane.strand.reads))
    for a, b in pairwise(lane.columns):
        if a.is_gap or b.is_gap:
            continue
        middle = (a.x + b.x) / 2
        points = ((a.x + out, top), (middle, top), (middle, bottom), (b.x - into, bottom))
        shapes.append(Line(points, "muted", 1.2, arrow=True, dashes=DASHED))
    return shapes


def _given_half(lane: Lane) -> float:
    return max(text_width(str(lane.strand.given), SMALL) / 2 + 8, text_width(lane.strand.given_name, SMALL) / 2)


def _given_place(lane: Lane) -> Point:
    """Return the middle of the box of what comes in beside the steps."""
    x = lane.columns[0].x - max(lane.width, _ends(lane)) - BETWEEN - _given_half(lane)
    return x, lane.rows["layer", 0] + BOX / 2 + GAP / 2 + BUS


def _given(lane: Lane) -> list[Shape]:
    """Return what comes in beside the steps, and the line that takes it to the first step or to each."""
    strand, half = lane.strand, _given_half(lane)
    (x, y), low = _given_place(lane), lane.rows["input", 0]
    shapes: list[Shape] = [Text(x, low, strand.given_name, SMALL), _up(x, low - 9, y + BOX / 2)]
    shapes += [Rect(x - half, y - BOX / 2, 2 * half, BOX, "linear"), Text(x, y, str(strand.given), SMALL)]
    return [*shapes, *_bus(lane, x + half, y, strand.given_at == "first")]


def _bus(lane: Lane, start: float, y: float, first_only: bool) -> list[Shape]:
    """Return a line below the first layer with a branch to each step, or to the first one."""
    steps = lane.steps[:1] if first_only else lane.steps
    end = lane.rows["layer", 0] + BOX / 2
    return [Line(((start, y), (c.x - 14, y), (c.x - 14, end)), "accent", arrow=True) for c in steps]


def _bridge_half(outline: Outline) -> float:
    return text_width("context" if outline.context == "every-step" else "bridge", SIZE) / 2 + 10


def _bridge(outline: Outline, encoder: Lane, decoder: Lane) -> list[Shape]:
    """Return the box that makes the first states of the decoder of the last ones of the encoder."""
    half = _bridge_half(outline)
    x = decoder.columns[0].x - max(decoder.width, _ends(decoder)) - BETWEEN - half
    ys = [spot[1] for k in range(len(encoder.levels)) for spot in _spots(encoder, k, encoder.columns[-1])]
    low, high = max(ys) + BOX / 2, min(ys) - BOX / 2
    shapes: list[Shape] = [Rect(x - half, high, 2 * half, low - high, "linear")]
    shapes.append(Text(x, (low + high) / 2, "bridge", SIZE))
    for k in range(len(encoder.levels)):
        edge, y = _spots(encoder, k, encoder.columns[-1])[0]
        shapes.append(Line(((edge + encoder.half, y), (x - half, y)), arrow=True))
        first, at = _spots(decoder, k, decoder.columns[0])[0]
        shapes.append(Line(((x + half, at), (first - decoder.half, at)), arrow=True))
    if outline.context == "every-step":
        y = low + GAP / 2 + BUS
        shapes += [Line(((x, low), (x, y)), "accent"), Text(x - 6, y, "context", SMALL, anchor="end")]
        shapes += _bus(decoder, x, y, False)
    if encoder.levels[0].directions == 2:
        shapes += _backward_ends(encoder, x, high)
    return shapes


def _backward_ends(encoder: Lane, x: float, top: float) -> list[Shape]:
    """Return the ways of the states that the direction back ends with, from the first step around the encoder."""
    shapes: list[Shape] = []
    count = len(encoder.levels)
    for k in range(count):
        cell, y = _spots(encoder, k, encoder.columns[0])[1]
        left = encoder.columns[0].x - encoder.width - 8 - 7 * (count - k)
        over = top - 24 - 7 * (count - k)
        down = x + 8 * (k - (count - 1) / 2)
        points = ((cell - encoder.half, y), (left, y), (left, over), (down, over), (down, top))
        shapes.append(Line(points, arrow=True))
    return shapes


def _attention(encoder: Lane, decoder: Lane) -> list[Shape]:
    """Return the outputs of the encoder as one line that each step of the decoder looks at."""
    level = len(encoder.levels) - 1
    two = encoder.levels[level].directions == 2
    start = encoder.rows["layer", level] - (BOX + SIDE / 2 + 10 if two else BOX / 2)
    return _looks([(c.x, start) for c in encoder.steps], decoder)


def _attention_to_given(lane: Lane) -> list[Shape]:
    """Return what is given as a line that each step looks at."""
    x, y = _given_place(lane)
    return _looks([(x, y - BOX / 2)], lane)


def _looks(seen: Sequence[Point], lane: Lane) -> list[Shape]:
    """Return lines from what is seen up to one below the attention of all steps, with a branch to each of them."""
    y = lane.rows["attention", 0]
    bus, last = y + BOX / 2 + BUS, lane.steps[-1]
    shapes: list[Shape] = [Line(((x, start), (x, bus), (last.x - 14, bus)), "accent") for x, start in seen]
    shapes += [Line(((c.x - 14, bus), (c.x - 14, y + BOX / 2)), "accent", arrow=True) for c in lane.steps]
    return shapes
