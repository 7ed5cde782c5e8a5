"""Series of numbers over time: tables with a row a time step, of one series or of several."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from everloop.data.readers.blocks import Block, BlockReader, in_blocks
from everloop.data.readers.long_tables import UnreadColumns
from everloop.data.readers.source import ColumnType, RowReader, Source
from everloop.data.readers.tables import time_of
from everloop.data.spacing import places_of, spacing
from everloop.errors import DataError

GAP = "mend it; or malformed skip leaves the row out, whose step is then missing"


class Step(NamedTuple):
    """A row: its line, its series, its time if there is one, its numbers. `gap`: rows before it are lost; `static`:
    what does not change in its series; `keys`: what the columns of its group hold."""

    line: int
    series: str
    time: datetime | None
    numbers: list[float]
    gap: bool
    static: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


@dataclass
class Track:
    """One series.

    Args:
        name: what tells it from others.
        values: [T, columns], NaN where a number is missing.
        times: of each step, if the table tells it.
        breaks: the steps before which some are missing, of a table without times; no window reaches across.
        static: what does not change in it.
        keys: what the columns of its group hold.
    """

    name: str
    values: Tensor
    times: list[datetime]
    breaks: list[int]
    static: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


class _Piece(NamedTuple):
    """Rows of one series that follow one another in a table: `numbers` are columns, the others as in Step."""

    lines: Sequence[int]
    times: Sequence[datetime]
    numbers: list[Sequence[float]]
    gap: bool
    static: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass
class _Rows:
    """All rows of one series."""

    static: tuple[str, ...]
    keys: tuple[str, ...]
    numbers: list[array[float]]
    lines: array[int] = field(default_factory=lambda: array("q"))
    times: list[datetime] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)

    def add(self, piece: _Piece) -> None:
        """Take in the rows that come next."""
        if piece.gap and not piece.times:
            self.breaks.append(len(self.lines))
        self.lines.extend(piece.lines)
        self.times.extend(piece.times)
        for column, more in zip(self.numbers, piece.numbers, strict=True):
            column.extend(more)

    def values(self) -> Tensor:
        """Return the numbers [T, columns]."""
        return torch.from_numpy(np.array(self.numbers, float).reshape(len(self.numbers), len(self.lines)).T.copy())


@dataclass(frozen=True)
class Table:
    """How a table with a row a time step is read.

    Args:
        numbers: the columns of the values.
        time: the columns of the time: one with the whole of it, or several such as year, month, day, hour.
        columns: the names of all columns, where there is no header.
        group: the columns that tell the series of a long table apart.
        one_series: whether the user says that the rows are one series, though several may have the same time, or a
            column that is not read looks like several series.
        static: columns of words that do not change within a series.
    """

    numbers: tuple[str, ...]
    time: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    one_series: bool = False
    static: tuple[str, ...] = ()

    def steps(self, source: Source, rows: RowReader, *, ends: bool = True) -> Iterator[Step]:
        """Yield the rows as they come; an empty cell is a missing number, NaN.

        `ends` says whether there is an end, at which the columns that are not read can be judged.

        Raises:
            DataError: malformed, a column that is not there, or several series in one table.
        """
        for lines, times, numbers, gap, static, keys in self._pieces(source, in_blocks(rows, 1), ends=ends):
            time = times[0] if times else None
            yield Step(lines[0], " ".join(keys), time, [column[0] for column in numbers], gap, static, keys)

    def _pieces(self, source: Source, blocks: BlockReader, *, ends: bool) -> Iterator[_Piece]:
        """Yield the rows as they come, those of one series together."""
        source.errors.advice = GAP
        whole = len(self.time) == 1
        wanted: dict[str, ColumnType] = {
            **dict.fromkeys(self.numbers, "value"),
            **dict.fromkeys(self.time, "time" if whole else "text"),
            **dict.fromkeys((*self.group, *self.static), "text"),
        }
        unread = UnreadColumns(source.place) if ends and not (self.time or self.group or self.one_series) else None
        see = (lambda lines, columns: unread.see(lines, columns, wanted)) if unread else None
        for block in blocks(source, wanted, self.columns, see):
            if len(self.time) > 1 or self.group or self.static:
                yield from self._cut(source, block)
            else:
                numbers = [block.columns[name] for name in self.numbers]
                times = block.columns[self.time[0]] if self.time else ()
                yield _Piece(block.lines, times, numbers, block.gap, (), ())
        if unread:
            unread.check()

    def _cut(self, source: Source, block: Block) -> Iterator[_Piece]:
        """Yield the rows of a block, a piece for each series and each row without a time between them."""
        times: Sequence[datetime | None] = block.columns[self.time[0]] if len(self.time) == 1 else ()
        if len(self.time) > 1:
            times = [_joined(parts) for parts in zip(*(block.columns[name] for name in self.time), strict=True)]
        words = [map(str.strip, block.columns[name]) for name in (*self.static, *self.group)]
        marks = list(zip(*words, strict=True)) if words else [()] * len(block.lines)
        begin = 0
        for end in range(1, len(marks) + 1):
            if end < len(marks) and marks[end] == marks[begin] and not (times and None in times[end - 1 : end + 1]):
                continue
            if times and times[begin] is None:
                came = f"{', '.join(self.time)} are {', '.join(repr(block.columns[name][begin]) for name in self.time)}"
                source.errors.report(source.place, block.lines[begin], came, "a time in parts, such as 2016, 7, 1, 13")
            else:
                numbers = [block.columns[name][begin:end] for name in self.numbers]
                static, keys = marks[begin][: len(self.static)], marks[begin][len(self.static) :]
                known = [time for time in times[begin:end] if time]
                yield _Piece(block.lines[begin:end], known, numbers, block.gap and not begin, static, keys)
            begin = end

    def tracks(
        self, sources: Sequence[tuple[Source, BlockReader]], tell: Callable[[str], None], *, ends: bool = True
    ) -> list[Track]:
        """Return the series of some files, each in the order of time; several files without `group` are a series each.

        Steps that are missing between two times are put in, without numbers. `tell` is called with what was arranged.

        Raises:
            DataError: malformed, without a row, a column that is not there, or a time occurs twice in a series.
        """
        found: dict[str, tuple[str, _Rows]] = {}
        all_places = [source.place for source, _ in sources]
        if twice := [place for place in all_places if all_places.count(place) > 1]:
            raise DataError(f"{twice[0]} is given twice; expected each file once")
        for source, blocks in sources:
            alone = source.place if len(sources) > 1 else ""
            for piece in self._pieces(source, blocks, ends=ends):
                name = " ".join(piece.keys) or alone
                if name not in found:
                    empty = [array("d") for _ in self.numbers]
                    found[name] = source.place, _Rows(piece.static, piece.keys, empty)
                kept = found[name][1]
                if piece.static != kept.static:
                    self._refuse_change(source.place, piece, kept)
                kept.add(piece)
        if not found:
            raise sources[0][0].errors.nothing(", ".join(all_places), ", ".join(self.numbers))
        return [self._arranged(name, *one, tell) for name, one in found.items()]

    def _refuse_change(self, place: str, piece: _Piece, rows: _Rows) -> None:
        changed = zip(self.static, piece.static, rows.static, strict=True)
        name, new, old = next(one for one in changed if one[1] != one[2])
        of = f" of series {' '.join(piece.keys)}" if any(piece.keys) else ""
        came = f"{place}: line {piece.lines[0]}: {name}{of} is {new!r}, and {old!r} in line {rows.lines[0]}"
        raise DataError(f"{came}; expected the same in all rows of a series: name what tells them apart with --group")

    def _arranged(self, name: str, place: str, rows: _Rows, tell: Callable[[str], None]) -> Track:
        """Return a series in the order of time, with the steps that are missing."""
        values, times = rows.values(), rows.times
        if not self.time:
            return Track(name, values, [], rows.breaks, rows.static, rows.keys)
        called = f"{place}{f', series {name}' if name not in ('', place) else ''}"
        _check_zones(called, rows)
        order: Sequence[int] = range(len(times))
        fault = next((i for i, (a, b) in enumerate(pairwise(times), 1) if b < a), None)
        if fault is not None:
            tell(f"{called}: the rows are not in the order of time (line {rows.lines[fault]}); they were sorted")
            order = sorted(order, key=times.__getitem__)
            values, times = values[order], [times[i] for i in order]
        twice = next((i for i, (a, b) in enumerate(pairwise(times), 1) if a == b), None)
        if twice is not None and not self.one_series:
            hint = "name the columns that tell several series apart with --group; or say --one-series"
            raise DataError(
                f"{called}: line {rows.lines[order[twice]]}: {' '.join(self.time)} is {times[twice]}, as in line "
                f"{rows.lines[order[twice - 1]]}; expected each time once: {hint}"
            )
        step = None if twice is not None else spacing(times)
        if step is None:
            if twice is None and len(times) > 2:
                tell(f"{called}: the times are not evenly spaced; the rows follow one another as if they were")
            return Track(name, values, times, [], rows.static, rows.keys)
        places = places_of(times, step)
        missing = places[-1] + 1 - len(places)
        if not missing:
            return Track(name, values, times, [], rows.static, rows.keys)
        before = next(i for i, (a, b) in enumerate(pairwise(places), 1) if b - a > 1)
        tell(f"{called}: {missing:,} steps of {step} have no row, the first before {times[before]}; they are missing")
        whole = torch.full((places[-1] + 1, values.shape[1]), math.nan, dtype=torch.float64)
        whole[places] = values
        return Track(name, whole, [step.after(times[0], i) for i in range(len(whole))], [], rows.static, rows.keys)


def _joined(parts: Sequence[str]) -> datetime | None:
    """Return the time that is written in several columns, None if it is none."""
    parts = [part.strip() for part in parts]
    try:
        return datetime(*map(int, parts))  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return time_of(" ".join(parts))


def _check_zones(called: str, rows: _Rows) -> None:
    """Check that all times have a time zone, or none."""
    if len({time.tzinfo is None for time in rows.times}) == 1:
        return
    for line, time in zip(rows.lines, rows.times, strict=True):
        if (time.tzinfo is None) != (rows.times[0].tzinfo is None):
            has = "a" if time.tzinfo else "no"
            raise DataError(f"{called}: line {line}: {time} has {has} time zone, unlike {rows.times[0]} above it")
