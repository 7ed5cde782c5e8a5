"""Series of numbers over time: tables with a row a time step, of one series or of several."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from everloop.data.readers.long_tables import UnreadColumns
from everloop.data.readers.source import ColumnType, Row, RowReader, Source
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


@dataclass
class _Rows:
    static: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    lines: list[int] = field(default_factory=list)
    times: list[datetime] = field(default_factory=list)
    numbers: list[list[float]] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)


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
        place, errors = source.place, source.errors
        errors.advice = GAP
        whole = len(self.time) == 1
        wanted: dict[str, ColumnType] = {
            **dict.fromkeys(self.numbers, "value"),
            **dict.fromkeys(self.time, "time" if whole else "text"),
            **dict.fromkeys((*self.group, *self.static), "text"),
        }
        unread = UnreadColumns(place) if ends and not (self.time or self.group or self.one_series) else None
        see = (lambda line, fields: unread.see(line, fields, wanted)) if unread else None
        skipped = errors.skipped
        for line, _, row in rows(source, wanted, self.columns, see):
            time = (row[self.time[0]] if whole else self._joined(row)) if self.time else None
            if self.time and time is None:
                came = f"{', '.join(self.time)} are {', '.join(repr(row[name]) for name in self.time)}"
                errors.report(place, line, came, "a time in parts, such as 2016, 7, 1, 13")
                continue
            keys, static = (tuple(row[name].strip() for name in some) for some in (self.group, self.static))
            numbers = [row[name] for name in self.numbers]
            yield Step(line, " ".join(keys), time, numbers, errors.skipped > skipped, static, keys)
            skipped = errors.skipped
        if unread:
            unread.check()

    def _joined(self, row: Row) -> datetime | None:
        parts = [row[name].strip() for name in self.time]
        try:
            return datetime(*(int(part) for part in parts))  # type: ignore[arg-type]
        except (ValueError, TypeError):
            return time_of(" ".join(parts))

    def tracks(
        self, sources: Sequence[tuple[Source, RowReader]], tell: Callable[[str], None], *, ends: bool = True
    ) -> list[Track]:
        """Return the series of some files, each in the order of time; several files without `group` are a series each.

        Steps that are missing between two times are put in, without numbers. `tell` is called with what was arranged.

        Raises:
            DataError: malformed, without a row, a column that is not there, or a time occurs twice in a series.
        """
        found: dict[str, tuple[str, _Rows]] = {}
        for source, rows in sources:
            alone = source.place if len(sources) > 1 else ""
            for step in self.steps(source, rows, ends=ends):
                _, kept = found.setdefault(step.series or alone, (source.place, _Rows(step.static, step.keys)))
                if step.static != kept.static:
                    self._refuse_change(source.place, step, kept)
                if step.gap and not self.time:
                    kept.breaks.append(len(kept.numbers))
                kept.lines.append(step.line)
                kept.numbers.append(step.numbers)
                if step.time is not None:
                    kept.times.append(step.time)
        if not found:
            places = ", ".join(source.place for source, _ in sources)
            raise DataError(f"{places} has no row; expected at least one with {', '.join(self.numbers)}")
        return [self._arranged(name, *one, tell) for name, one in found.items()]

    def _refuse_change(self, place: str, step: Step, rows: _Rows) -> None:
        changed = zip(self.static, step.static, rows.static, strict=True)
        name, new, old = next(one for one in changed if one[1] != one[2])
        of = f" of series {step.series}" if step.series else ""
        came = f"{place}: line {step.line}: {name}{of} is {new!r}, and {old!r} in line {rows.lines[0]}"
        raise DataError(f"{came}; expected the same in all rows of a series: name what tells them apart with --group")

    def _arranged(self, name: str, place: str, rows: _Rows, tell: Callable[[str], None]) -> Track:
        """Return a series in the order of time, with the steps that are missing."""
        values = torch.tensor(rows.numbers, dtype=torch.float64)
        if not self.time:
            return Track(name, values, [], rows.breaks, rows.static, rows.keys)
        called = f"{place}{f', series {name}' if name not in ('', place) else ''}"
        _check_zones(called, rows)
        order = sorted(range(len(rows.times)), key=rows.times.__getitem__)
        if order != [*range(len(order))]:
            line = rows.lines[next(i for i, (a, b) in enumerate(pairwise(rows.times), 1) if b < a)]
            tell(f"{called}: the rows are not in the order of time (line {line}); they were sorted")
        times = [rows.times[i] for i in order]
        twice = next((i for i, (a, b) in enumerate(pairwise(times), 1) if a == b), None)
        if twice is not None and not self.one_series:
            hint = "name the columns that tell several series apart with --group; or say --one-series"
            raise DataError(
                f"{called}: line {rows.lines[order[twice]]}: {' '.join(self.time)} is {times[twice]}, as in line "
                f"{rows.lines[order[twice - 1]]}; expected each time once: {hint}"
            )
        values = values[order]
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


def _check_zones(called: str, rows: _Rows) -> None:
    """Check that all times have a time zone, or none."""
    for line, time in zip(rows.lines, rows.times, strict=True):
        if (time.tzinfo is None) != (rows.times[0].tzinfo is None):
            has = "a" if time.tzinfo else "no"
            raise DataError(f"{called}: line {line}: {time} has {has} time zone, unlike {rows.times[0]} above it")
