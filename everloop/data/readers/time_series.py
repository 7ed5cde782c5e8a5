"""Series of numbers: columns of a CSV file over time, and .ts files with many labelled series."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor

from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.formats import table_reader
from everloop.data.readers.long_tables import TimeOrder, UnreadColumns
from everloop.data.readers.source import ColumnType, FileSource, Row, RowReader, Source
from everloop.errors import DataError

GAP = "fill the gap; or malformed skip breaks the series there, and no window reaches across"


@dataclass(frozen=True)
class Table:
    """How a table with a row a time step is read.

    Args:
        numbers: the columns of the values.
        time: the column of the time; "" if none is read.
        columns: the names of all columns, where there is no header.
        one_series: whether the user says that the rows are one series, though several may have the same time, or a
            column that is not read looks like several series.
    """

    numbers: tuple[str, ...]
    time: str = ""
    columns: tuple[str, ...] = ()
    one_series: bool = False

    def steps(self, source: Source, rows: RowReader, *, ends: bool = True) -> Iterator[tuple[bool, Row]]:
        """Yield for each step (whether steps before it are missing, its values by column).

        `ends` says whether there is an end, at which the columns that are not read can be judged.

        Raises:
            DataError: malformed, a column that is not there, or several series in one table.
        """
        place, errors = source.place, source.errors
        errors.advice = GAP
        wanted: dict[str, ColumnType] = {
            **dict.fromkeys(self.numbers, "number"),
            **({self.time: "time"} if self.time else {}),
        }
        order = TimeOrder(place, self.time, equal=self.one_series)
        unread = UnreadColumns(place) if ends and not (self.time or self.one_series) else None
        see = (lambda line, fields: unread.see(line, fields, wanted)) if unread else None
        skipped = errors.skipped
        for line, _, row in rows(source, wanted, self.columns, see):
            if self.time:
                order.see(line, row[self.time])
            yield errors.skipped > skipped, row
            skipped = errors.skipped
        if unread:
            unread.check()


def read_columns(
    path: str | Path, table: Table, errors: ErrorPolicy, form: str = "auto"
) -> tuple[Tensor, list[datetime], list[int]]:
    """Return (values [T, number of columns], the time of each row, the rows before which some are missing).

    Raises:
        DataError: missing, malformed, a column that is not there, or several series in one table.
    """
    values: list[list[float]] = []
    times, breaks = list[datetime](), list[int]()
    for broken, row in table.steps(FileSource(Path(path), errors), table_reader(Path(path), form)):
        if broken:
            breaks.append(len(values))
        values.append([row[name] for name in table.numbers])
        if table.time:
            times.append(row[table.time])
    if not values:
        raise DataError(f"{path} has no row; expected at least one with {', '.join(table.numbers)}")
    return torch.tensor(values, dtype=torch.float64), times, breaks
