"""Series of numbers: columns of a CSV file over time, and .ts files with many labelled series."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from everloop.data.faults import Faults
from everloop.data.lines import numbered, opened
from everloop.data.tables import Kind, Records, form_of
from everloop.errors import DataError


def read_columns(
    path: str | Path, numbers: Sequence[str], texts: Sequence[str], columns: Sequence[str], faults: Faults
) -> tuple[Tensor, dict[str, list[str]]]:
    """Return (values [T, number of columns], further columns as they stand) of a table with a row a time step.

    Raises:
        DataError: missing, malformed, or a column that is not there.
    """
    wanted: dict[str, Kind] = {**dict.fromkeys(texts, "text"), **dict.fromkeys(numbers, "number")}
    records = Records(wanted, form_of(path), columns, path, faults)
    values, rest = [], dict[str, list[str]]((name, []) for name in texts)
    with opened(path) as file:
        for _, _, row in records.read(file):
            values.append([row[name] for name in numbers])
            for name in texts:
                rest[name].append(row[name])
    if not values:
        raise DataError(f"{path} has no row; expected one a time step with {', '.join(wanted)}")
    return torch.tensor(values, dtype=torch.float64), rest


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
