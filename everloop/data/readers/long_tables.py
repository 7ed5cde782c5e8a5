"""Long tables: how several series, one below the other (store, date, sales), are told from one with a row a step."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from everloop.data.readers.tables import time_of
from everloop.errors import DataError

DATE = re.compile(r"\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\b")
ADVICE = (
    "expected the rows of one series, in the order of time: name the column of the time with --time, and those that "
    "tell several series apart with --group"
)
SURE = "if they are one series all the same, say --one-series"


class UnreadColumns:
    """Looks in the columns that are not read for signs of several series, where there is no column of the time.

    Numbers say nothing. Times or dates in order are one series. Else a column of words is suspicious whose equal values
    stand together, or come round in turn: sorted by store, or by day and then store.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.columns: dict[str, _Values] | None = None

    def see(self, lines: Sequence[int], columns: Mapping[str, Sequence[Any]], read: Collection[str]) -> None:
        """Look at some rows: their lines, all their columns, and the names of those that are read."""
        if self.columns is None:
            self.columns = {name: _Values() for name in columns if name not in read}
        for name, values in list(self.columns.items()):
            cells = columns.get(name) or [None] * len(lines)
            if not all(map(values.add, lines, cells)):
                del self.columns[name]

    def check(self) -> None:
        """Check all rows that were seen.

        Raises:
            DataError: it looks like several series, one above the other.
        """
        columns = self.columns or {}
        dates = {name: values.out_of_order for name, values in columns.items() if values.is_dates}
        if any(fault is None for fault in dates.values()):
            return
        for name, fault in dates.items():
            assert fault, "the others have returned"
            raise DataError(f"{self.place}: line {fault[0]}: {name} is {fault[1]}; {ADVICE}; {SURE}")
        if any(not values.repeated for values in columns.values()):
            return  # a name for each step
        for name, values in columns.items():
            if values.is_stacked:
                came = f"{name} has {len(values.seen):,} different values in {values.count:,} rows"
                raise DataError(f"{self.place}: line {values.repeated}: {came}; {ADVICE}; {SURE}")


class _Values:
    """What the values of one column look like, row after row."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}
        self.count = self.period = 0
        self.repeated = 0  # the line of the first value that is not new
        self.is_dates = self.is_times = self.together = True
        self.before = ""
        self.time: datetime | None = None
        self.disorder: tuple[int, str] | None = None

    @property
    def is_stacked(self) -> bool:
        """Whether equal values stand together, or all come round in turn."""
        return len(self.seen) > 1 and (self.together or self.period > 0)

    @property
    def out_of_order(self) -> tuple[int, str] | None:
        """The line of the first date out of order, and what is wrong; None if all is well."""
        if self.is_times:
            return self.disorder
        return (self.repeated, "a date that was there before") if self.repeated else None

    def add(self, line: int, value: Any) -> bool:
        """Take in a value; return False if the column holds numbers, or nothing that could be judged."""
        if not isinstance(value, str):
            return False
        time = time_of(value) if self.is_times else None
        self.is_times = time is not None
        if time is None and _is_number(value):
            return False
        self.is_dates = self.is_dates and (self.is_times or DATE.match(value) is not None)
        if time and self.time and not self.disorder and (fault := _disorder(self.time, time)):
            self.disorder = line, f"{time}, {fault}"
        known = len(self.seen)
        place = self.seen.setdefault(value, known)
        if place < known:
            self.repeated = self.repeated or line
            self.period = self.period or known
            self.together = self.together and value == self.before
        if self.period > 0 and place != self.count % self.period:
            self.period = -1
        self.count, self.before, self.time = self.count + 1, value, time
        return True


def _disorder(before: datetime, time: datetime) -> str:
    """Return why a time does not come after the one before, or ""."""
    if (before.tzinfo is None) != (time.tzinfo is None):
        return f"{'with' if time.tzinfo else 'without'} a time zone, unlike {before} in the row before"
    if before < time:
        return ""
    return "the same as in the row before" if before == time else f"after {before} in the row before"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
