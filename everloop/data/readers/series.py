"""Series of numbers: columns of a CSV file over time, and .ts files with many labelled series."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor

from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.lines import numbered, opened
from everloop.data.readers.stacked import Increasing, Unread
from everloop.data.readers.tables import LARGEST, Form, Kind, Records, Row, form_of
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

    def steps(
        self, file: Iterable[bytes], form: Form, place: str, errors: ErrorPolicy, *, ends: bool = True
    ) -> Iterator[tuple[bool, Row]]:
        """Yield for each step (whether steps before it are missing, its values by column) of an open file.

        `ends` says whether there is an end, at which the columns that are not read can be judged.

        Raises:
            DataError: malformed, a column that is not there, or several series in one table.
        """
        errors.advice = GAP
        wanted: dict[str, Kind] = {
            **dict.fromkeys(self.numbers, "number"),
            **({self.time: "time"} if self.time else {}),
        }
        order = Increasing(place, self.time, equal=self.one_series)
        unread = Unread(place) if ends and not (self.time or self.one_series) else None
        see = (lambda line, fields: unread.see(line, fields, wanted)) if unread else None
        skipped = errors.skipped
        for line, _, row in Records(wanted, form, self.columns, place, errors, see).read(file):
            if self.time:
                order.see(line, row[self.time])
            yield errors.skipped > skipped, row
            skipped = errors.skipped
        if unread:
            unread.check()


def read_columns(path: str | Path, table: Table, errors: ErrorPolicy) -> tuple[Tensor, list[datetime], list[int]]:
    """Return (values [T, number of columns], the time of each row, the rows before which some are missing).

    Raises:
        DataError: missing, malformed, a column that is not there, or several series in one table.
    """
    values: list[list[float]] = []
    times, breaks = list[datetime](), list[int]()
    with opened(path) as file:
        for broken, row in table.steps(file, form_of(path), str(path), errors):
            if broken:
                breaks.append(len(values))
            values.append([row[name] for name in table.numbers])
            if table.time:
                times.append(row[table.time])
    if not values:
        raise DataError(f"{path} has no row; expected at least one with {', '.join(table.numbers)}")
    return torch.tensor(values, dtype=torch.float64), times, breaks


def read_ts(path: str | Path, errors: ErrorPolicy) -> tuple[list[Tensor], list[str]]:
    """Return the series [T, channels] and the labels of a .ts file.

    Raises:
        DataError: missing, malformed, or without series.
    """
    with opened(path) as file:
        found = list(ts_series(file, str(path), errors))
    if not found:
        raise DataError(f"{path} has no series; expected @data and then one a line")
    return [series for series, _ in found], [label for _, label in found]


def ts_series(
    file: Iterable[bytes], place: str, errors: ErrorPolicy, *, labelled: bool = True
) -> Iterator[tuple[Tensor, str]]:
    """Yield (series [T, channels], label) of an open .ts file: channels between colons, values between commas.

    The last field of a line is its label; `labelled=False` takes lines with and without one.
    """
    channels = labels = None
    for number, line in numbered(file, place, errors):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if text.startswith("@"):
            name, *values = text[1:].split()
            if name.lower() == "classlabel" and values[:1] == ["true"]:
                labels = values[1:]
            elif name.lower() == "dimensions" and values[:1] and values[0].isdigit():
                channels = int(values[0])
            continue
        fields = text.split(":")
        has_label = labelled or (channels is not None and len(fields) == channels + 1)
        label = fields.pop().strip() if has_label else ""
        rows = [_numbers(field) for field in fields]
        lengths = {len(row) for row in rows if row is not None}
        if None in rows:
            errors.report(place, number, _wrong(fields), f"a number that is finite and at most {LARGEST:g} in size")
        elif len(lengths) != 1 or 0 in lengths or len(rows) != (channels or len(rows)):
            expected = f"{channels or 'some'} channels of equally many numbers, then a label"
            errors.report(place, number, f"{len(fields)} channels of {_and(lengths)} values", expected)
        elif has_label and labels and label not in labels:
            errors.report(place, number, f"label {label!r}", f"one of {', '.join(labels)}")
        else:
            yield torch.tensor(rows, dtype=torch.float32).T.contiguous(), label
            channels = channels or len(rows)


def _numbers(field: str) -> list[float] | None:
    try:
        values = [float(value) for value in field.split(",")]
    except ValueError:
        return None
    return values if all(abs(value) <= LARGEST for value in values) else None


def _wrong(fields: list[str]) -> str:
    """Return which value of the channels is no number."""
    for channel, field in enumerate(fields, 1):
        for step, value in enumerate(field.split(","), 1):
            if _numbers(value) is None:
                return f"value {step} of channel {channel} is {value.strip()!r}"
    raise AssertionError("asked only where one is none")


def _and(lengths: set[int]) -> str:
    return " and ".join(map(str, sorted(lengths)[:3])) or "no"
