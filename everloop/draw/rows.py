"""The grid of a network's figure: rows from what is read up to what is written, columns of time steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from everloop.draw.levels import Level, levels_of
from everloop.draw.scene import text_width
from everloop.models.outline import Outline, Strand

SIZE, SMALL = 12, 10
BOX, GAP, BUS, BETWEEN, SIDE = 28.0, 22.0, 12.0, 34.0, 10.0
Row = tuple[str, int]  # input, before, layer, attention, pooling, after, output; and which of them


@dataclass
class Column:
    """A time step: its name (1, 2, …, T) and where it is."""

    name: str
    x: float = 0.0

    @property
    def is_gap(self) -> bool:
        return self.name == "…"


@dataclass
class Lane:
    """A strand with its place in the grid: columns, half the width of a box, of a loop, the middle of each row."""

    strand: Strand
    levels: list[Level]
    columns: list[Column]
    half: float
    loop: float
    rows: dict[Row, float] = field(default_factory=dict)

    @property
    def steps(self) -> list[Column]:
        """The columns that hold boxes."""
        return [c for c in self.columns if not c.is_gap]

    @property
    def width(self) -> float:
        """Half the width of a column: two boxes side by side where there are two directions."""
        boxes = 2 * self.half + SIDE / 2 if any(level.directions == 2 for level in self.levels) else self.half
        return boxes + self.loop


def lanes_of(outline: Outline, steps: int) -> list[Lane]:
    """Return the strands side by side in the grid, unrolled over `steps` columns; 0: rolled, one column named t."""
    found: list[Lane] = []
    for number, strand in enumerate(outline.strands):
        levels = levels_of(strand.recurrent)
        last = "T" if number == 0 else "M"
        names = ["t"] if not steps else [*map(str, range(1, steps)), "…", last]
        words = [level.cell for level in levels] if steps else [f"{v.cell} {v.reads} → {v.writes}" for v in levels]
        words += [] if steps else [str(b) for b in blocks(outline, strand)]
        words += [strand.pooling]
        half = max(text_width(word, SIZE) for word in words) / 2 + 9
        states = max(text_width(", ".join(level.states) + " →", SMALL) for level in levels)
        found.append(Lane(strand, levels, [Column(name) for name in names], half, 0.0 if steps else 22 + states))
    for lane in found:
        lane.rows = _rows(outline, found, lane)
    return found


def blocks(outline: Outline, strand: Strand) -> list[object]:
    """Return the parts without memory of a strand."""
    own = [*strand.before, *strand.after]
    return [*own, *([outline.attention] if outline.attention and strand is outline.strands[-1] else [])]


def _rows(outline: Outline, lanes: Sequence[Lane], lane: Lane) -> dict[Row, float]:
    """Return the height of the middle of each row; rows of all lanes with one name are at one height."""
    befores, layers = max(len(a.strand.before) for a in lanes), max(len(a.levels) for a in lanes)
    decoder = lanes[-1]
    order: list[tuple[Row, float]] = [(("input", 0), BOX)]
    order += [(("before", k), BOX) for k in range(befores)]
    for k in range(layers):
        double = any(len(a.levels) > k and a.levels[k].directions == 2 for a in lanes)
        order.append((("layer", k), 2 * BOX + SIDE + 24 if double else BOX))  # with room to join and to fork
    order += [(("attention", 0), BOX)] if outline.attention else []
    order += [(("pooling", 0), BOX)] if any(a.strand.pooling for a in lanes) else []
    order += [(("after", k), BOX) for k in range(len(decoder.strand.after))]
    order.append((("output", 0), BOX))
    y, found = 0.0, dict[Row, float]()
    for row, height in order:
        bus = row == ("layer", 0) and (outline.context == "every-step" or any(a.strand.given for a in lanes))
        bare = bus and not befores and not outline.context  # what is given stands where a block would
        y -= height / 2 + GAP + (BUS if bus or row[0] in ("attention", "pooling") else 0) + (BOX if bare else 0)
        found[row] = y
        y -= height / 2
    missing = befores - len(lane.strand.before)
    own = {"before": missing, "layer": 0}
    kept = {("before", k + own["before"]) for k in range(len(lane.strand.before))}
    kept |= {("layer", k) for k in range(len(lane.levels))} | {("input", 0)}
    if lane is decoder:
        kept |= {row for row in found if row[0] in ("attention", "pooling", "after", "output")}
    return {row: at for row, at in found.items() if row in kept}
