"""Series of numbers: columns of a CSV file over time, and .ts files with many labelled series."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor

from everloop.data.faults import Faults
from everloop.data.lines import numbered, opened
from everloop.data.tables import Kind, read_table
from everloop.errors import DataError


def read_columns(
    path: str | Path, numbers: Sequence[str], time: str, columns: Sequence[str], faults: Faults
) -> tuple[Tensor, list[datetime]]:
    """Return (values [T, number of columns], the time of each row) of a table with a row a time step.

    Args:
        path: the table.
        numbers: the columns of the values.
        time: the column of the time; "" if none is read.
        columns: the names of all columns, where there is no header.
        faults: takes malformed lines.

    Raises:
        DataError: missing, malformed, or a column that is not there.
    """
    wanted: dict[str, Kind] = {**({time: "time"} if time else {}), **dict.fromkeys(numbers, "number")}
    values, times = [], []
    for _, row in read_table(path, wanted, columns, faults):
        values.append([row[name] for name in numbers])
        if time:
            times.append(row[time])
    return torch.tensor(values, dtype=torch.float64), times


def read_ts(path: str | Path, faults: Faults) -> tuple[list[Tensor], list[str]]:
    """Return the series [T, channels] and the labels of a .ts file.

    Raises:
        DataError: missing, malformed, or without series.
    """
    with opened(path) as file:
        found = list(ts_series(file, str(path), faults))
    if not found:
        raise DataError(f"{path} has no series; expected @data and then one a line")
    return [series for series, _ in found], [label for _, label in found]


def ts_series(
    file: Iterable[bytes], place: str, faults: Faults, *, labelled: bool = True
) -> Iterator[tuple[Tensor, str]]:
    """Yield (series [T, channels], label) of an open .ts file: channels between colons, values between commas.

    The last field of a line is its label; `labelled=False` takes lines with and without one.
    """
    channels = labels = None
    for number, line in numbered(file, place, faults):
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
        if None in rows or len(lengths) != 1 or 0 in lengths or len(rows) != (channels or len(rows)):
            expected = f"{channels or 'some'} channels of equally many numbers, then a label"
            faults(place, number, f"{len(fields)} channels of {_and(lengths)} values", expected)
        elif has_label and labels and label not in labels:
            faults(place, number, f"label {label!r}", f"one of {', '.join(labels)}")
        else:
            yield torch.tensor(rows, dtype=torch.float32).T.contiguous(), label
            channels = channels or len(rows)


def _numbers(field: str) -> list[float] | None:
    try:
        values = [float(value) for value in field.split(",")]
    except ValueError:
        return None
    return values if all(abs(value) < float("inf") for value in values) else None


def _and(lengths: set[int]) -> str:
    return " and ".join(map(str, sorted(lengths)[:3])) or "no"
