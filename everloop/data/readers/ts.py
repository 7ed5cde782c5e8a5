""".ts files: many labelled series of numbers, as the time series classification archive has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.lines import numbered
from everloop.data.readers.source import Fields, Record, Source
from everloop.data.readers.tables import MAX_FLOAT32
from everloop.errors import DataError


def examples(source: Source, fields: Fields) -> Iterator[Record]:
    """Yield the series [T, channels] of a .ts file, each with its label.

    Raises:
        DataError: missing, malformed, or without series.
    """
    empty = True
    with source.open() as file:
        for line, series, label in ts_series(file, source.place, source.errors):
            yield Record(series, label, line=line)
            empty = False
    if empty:
        raise DataError(f"{source.place} has no series; expected @data and then one a line")


def ts_series(
    file: Iterable[bytes], place: str, errors: ErrorPolicy, *, labelled: bool = True
) -> Iterator[tuple[int, Tensor, str]]:
    """Yield (line, series [T, channels], label) of an open .ts file: channels between colons, values between commas.

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
            errors.report(place, number, _wrong(fields), f"a number that is finite and at most {MAX_FLOAT32:g} in size")
        elif len(lengths) != 1 or 0 in lengths or len(rows) != (channels or len(rows)):
            expected = f"{channels or 'some'} channels of equally many numbers, then a label"
            errors.report(place, number, f"{len(fields)} channels of {_and(lengths)} values", expected)
        elif has_label and labels and label not in labels:
            errors.report(place, number, f"label {label!r}", f"one of {', '.join(labels)}")
        else:
            yield number, torch.tensor(rows, dtype=torch.float32).T.contiguous(), label
            channels = channels or len(rows)


def _numbers(field: str) -> list[float] | None:
    try:
        values = [float(value) for value in field.split(",")]
    except ValueError:
        return None
    return values if all(abs(value) <= MAX_FLOAT32 for value in values) else None


def _wrong(fields: list[str]) -> str:
    """Return which value of the channels is no number."""
    for channel, field in enumerate(fields, 1):
        for step, value in enumerate(field.split(","), 1):
            if _numbers(value) is None:
                return f"value {step} of channel {channel} is {value.strip()!r}"
    raise AssertionError("asked only where one is none")


def _and(lengths: set[int]) -> str:
    return " and ".join(map(str, sorted(lengths)[:3])) or "no"
