"""The recurrent layers of a model, level by level, with the names and sizes that figures show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from everloop.cell import Cell
from everloop.layers import Bidirectional, Recurrent, Stack
from everloop.layers.dropout import Wrapper


@dataclass(frozen=True)
class Level:
    """One layer: what its cell is called, in each of its directions, its sizes and the names of its states."""

    cell: str
    reads: int
    writes: int
    states: tuple[str, ...]
    directions: int = 1

    def __str__(self) -> str:
        both = " in both directions" if self.directions == 2 else ""
        return f"{self.cell} {self.reads} → {self.writes}{both}"


def levels_of(layers: Recurrent) -> list[Level]:
    """Return the levels of recurrent layers, from the bottom up; a stack inside a direction is one level."""
    core = layers.cell
    return [_level(member) for member in (core.members if isinstance(core, Stack) else [core])]


def _level(member: Any) -> Level:
    if isinstance(member, Bidirectional):
        one = _level(member.ahead)
        return Level(one.cell, member.input_size, member.output_size, one.states, 2)
    sizes: Mapping[str, int] = member.state_sizes if isinstance(member, Cell) else {"states": 0}
    return Level(cell_name(member), member.input_size, member.output_size, tuple(sizes))


def cell_name(member: Any) -> str:
    """Return what a cell is called, through the regularisers around it; a stack by all of its cells."""
    if isinstance(member, Wrapper):
        return cell_name(member.cell)
    if isinstance(member, Stack):
        return " + ".join(cell_name(each) for each in member.members)
    return type(member).__name__
