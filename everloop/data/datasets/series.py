"""Series over time, cut into windows: what is known, and what follows it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from everloop.data.batching.batch import Batch
from everloop.data.dataset import SPLITS, SequenceDataset, pass_seed
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.lazy import Mapped
from everloop.data.readers.time_series import Table, read_columns
from everloop.errors import DataError, OptionError, unknown

Cycle = Literal["hour", "weekday", "month"]


@dataclass(frozen=True)
class SeriesConfig:
    """Which series are read, and how."""

    train: Path | None = None
    """CSV, TSV or JSON lines with a row a time step; all splits are cut from it."""
    format: str = "auto"
    """What the file is: csv, tsv or jsonl; by default as its name ends."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a TSV or CSV file that has no header."""
    series: tuple[str, ...] = ()
    """Columns to forecast."""
    covariates: tuple[str, ...] = ()
    """Further columns of numbers that help; they are known as far as the series are."""
    planned: tuple[str, ...] = ()
    """Further columns of numbers that are known for the steps to come too: plans, prices, a calendar of your own."""
    time: str = ""
    """Column with the time of each row (such as 2016-07-01 00:00:00), for `calendar`."""
    calendar: tuple[Cycle, ...] = ()
    """What the model knows of the time, also of the time to come."""
    split: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Fractions of the rows for training, validation and test, in this order; numbers above 1 count rows."""
    malformed: Malformed = "stop"
    """What to do with a malformed line; skip leaves a gap, and no window reaches across it."""
    one_series: bool = False
    """Take the rows as one series, though several have the same time, or a column looks like several series."""

    def table(self, numbers: tuple[str, ...]) -> Table:
        """Return how these columns are read."""
        return Table(numbers, self.time, self.columns, self.one_series)


@dataclass(frozen=True)
class SeriesBatch(Batch):
    """Windows. past: [T, B, S]; extra: covariates, what was planned, calendar [T, B, C + P + K]; ahead: what is planned
    and the calendar to come [H, B, P + K]; future: [H, B, S]. Everything is as in the file, not scaled."""

    past: Tensor
    extra: Tensor
    ahead: Tensor
    future: Tensor


class Series(SequenceDataset[SeriesBatch, SeriesBatch]):
    """Series over time; the splits follow one another. An item is a batch of one window.

    The windows of a split forecast steps of that split; what is known may begin in the split before.

    Args:
        values: [N, S], a column a series.
        extra: covariates [N, C]; None: none.
        times: the time of each step, for the calendar.
        config: the splits.
        context: T, steps known.
        horizon: H, steps to forecast.
        planned: [N, P], what is known of steps to come too; None: nothing.
        breaks: the steps before which some are missing; no window reaches across.

    Raises:
        DataError: there are too few steps, or a number is not finite.
    """

    def __init__(
        self,
        values: Tensor,
        extra: Tensor | None = None,
        times: Sequence[datetime] = (),
        config: SeriesConfig | None = None,
        *,
        context: int,
        horizon: int,
        planned: Tensor | None = None,
        breaks: Sequence[int] = (),
        errors: ErrorPolicy | None = None,
    ) -> None:
        super().__init__(config or SeriesConfig(), errors)
        self.context, self.horizon = context, horizon
        if context < 1 or horizon < 1:
            raise OptionError(f"context is {context} and horizon is {horizon}; expected at least 1")
        self.values = values.float()
        self.covariates = torch.zeros(len(values), 0) if extra is None else extra.float()
        self.planned = torch.zeros(len(values), 0) if planned is None else planned.float()
        for name, part in (("values", self.values), ("extra", self.covariates), ("planned", self.planned)):
            _check_finite(name, part)
        self.breaks = tuple(breaks)
        self.calendar = calendar_of(times, self.config.calendar) if times else torch.zeros(len(values), 0)
        self.bounds = _bounds(len(values), self.config.split)
        self.starts = {name: self._starts(*self.bounds[name]) for name in SPLITS}
        self.items = {name: Mapped(starts, self._item) for name, starts in self.starts.items()}
        needed = next((name for name, (begin, end) in self.bounds.items() if begin < end), "train")
        if not len(self.starts[needed]):
            gaps = f" and {len(self.breaks):,} gaps" if self.breaks else ""
            begin, end = self.bounds[needed]
            raise DataError(
                f"the {needed} split has {end - begin:,} steps{gaps}; a window of {context} + {horizon} needs more"
                + (" in one piece" if gaps else "")
            )

    @classmethod
    def from_config(cls, config: SeriesConfig, *, context: int, horizon: int) -> Series:
        """Return the series that a configuration describes."""
        if config.train is None:
            raise DataError("no series given; name their file with --train FILE")
        errors = ErrorPolicy(config.malformed)
        (values, extra, planned), times, breaks = read_series(config.train, config, errors)
        sizes: dict[str, Any] = {"context": context, "horizon": horizon}
        return cls(values, extra, times, config, **sizes, planned=planned, breaks=breaks, errors=errors)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the series."""
        return self.config.series or tuple(f"series {i + 1}" for i in range(self.values.shape[1]))

    @property
    def extras(self) -> tuple[int, int, int]:
        """The numbers a step has beside the series: covariates, what is planned, and calendar."""
        return self.covariates.shape[1], self.planned.shape[1], self.calendar.shape[1]

    def scale(self) -> tuple[Tensor, Tensor]:
        """Return (means, standard deviations) of series, covariates and what is planned in the training split."""
        known = torch.cat([self.values, self.covariates, self.planned], 1)[: self.bounds["train"][1]].double()
        return known.mean(0).float(), known.std(0, unbiased=False).clamp_min(1e-8).float()

    def content(self) -> Iterator[bytes]:
        cut = (self.bounds, self.context, self.horizon, *([self.breaks] if self.breaks else []))
        yield repr(cut).encode()
        yield from (part.numpy().tobytes() for part in (self.values, self.covariates, self.planned, self.calendar))

    def batch_sampler(self, split: str, number: int = 0, *, batch: int, seed: int = 0) -> Sequence[list[int]]:
        order = list(range(len(self[split])))
        if split == "train":
            generator = torch.Generator().manual_seed(pass_seed(seed, number))
            order = torch.randperm(len(order), generator=generator).tolist()
        return [order[i : i + batch] for i in range(0, len(order), batch)]

    def batch_of(self, split: str, number: int, seed: int, indices: list[int]) -> SeriesBatch:
        return self.window(torch.tensor([self.starts[split][i] for i in indices]))  # without an item for each

    def collate(self, items: Sequence[SeriesBatch]) -> SeriesBatch:
        parts = zip(*((one.past, one.extra, one.ahead, one.future) for one in items), strict=True)
        return SeriesBatch(*(torch.cat(some, 1) for some in parts))

    def _item(self, start: int) -> SeriesBatch:
        return self.window(torch.tensor([start]))

    def window(self, starts: Tensor) -> SeriesBatch:
        """Return the windows whose first unknown steps are these."""
        before = torch.arange(-self.context, 0)[:, None] + starts
        after = torch.arange(self.horizon)[:, None] + starts
        extra = torch.cat([self.covariates[before], self.planned[before], self.calendar[before]], -1)
        ahead = torch.cat([self.planned[after], self.calendar[after]], -1)
        return SeriesBatch(self.values[before], extra, ahead, self.values[after])

    def describe(self, batch: int) -> list[str]:
        bounds = {split: self.bounds[split] for split in self.splits}
        return [
            f"{split}: {end - begin:,} steps, {len(self[split]):,} windows" for split, (begin, end) in bounds.items()
        ]

    def notes(self, batch: int) -> list[str]:
        gaps = f"no window reaches across the gaps of {self.errors}"
        return [*self.describe(batch), *([gaps] if self.errors.skipped else [])]

    def _starts(self, begin: int, end: int) -> Sequence[int]:
        found = range(max(begin, self.context), max(begin, end - self.horizon + 1))
        if not self.breaks:
            return found
        breaks = [*self.breaks, len(self.values) + self.horizon]  # the last is beyond every window
        return [s for s in found if breaks[bisect_right(breaks, s - self.context)] >= s + self.horizon]

    def __repr__(self) -> str:
        return f"Series({len(self.values):,} steps of {', '.join(self.names)})"


def read_series(
    path: Path, config: SeriesConfig, errors: ErrorPolicy
) -> tuple[tuple[Tensor, Tensor, Tensor], list[datetime], list[int]]:
    """Return (series [N, S], covariates [N, C] and what is planned [N, P]; times; breaks) of a file.

    Raises:
        DataError: missing, malformed, or a column that is not there.
    """
    if not config.series:
        raise OptionError("no series named; say which columns are to be forecast with --series COLUMN…")
    if config.calendar and not config.time:
        raise OptionError("calendar needs the column of the time; name it with --time COLUMN")
    groups = (config.series, config.covariates, config.planned)
    values, times, breaks = read_columns(path, config.table(sum(groups, ())), errors, config.format)
    series, covariates, planned = torch.split(values, [len(group) for group in groups], 1)
    return (series, covariates, planned), times, breaks


class Plans:
    """What is planned for the steps to come: a table with the planned columns, and the time of each row if it counts.

    Raises:
        DataError: missing, malformed, or a column that is not there.
    """

    def __init__(self, path: Path, config: SeriesConfig, errors: ErrorPolicy) -> None:
        self.path, self.timed = path, bool(config.time)
        table = replace(config, columns=()).table(config.planned)
        self.values, times, breaks = read_columns(path, table, errors)
        if breaks and not self.timed:
            raise DataError(
                f"{path}: rows are missing before its row {breaks[0] + 1}, and no time tells which; fill them in"
            )
        self.row_of = {time: row for row, time in enumerate(times)}

    def ahead(self, times: Sequence[datetime], horizon: int) -> Tensor:
        """Return what is planned [H, P] at these times; without times, in the first rows.

        Raises:
            DataError: a step to come has no row.
        """
        if not self.timed:
            if len(self.values) < horizon:
                raise DataError(f"{self.path} has {len(self.values)} rows; a forecast needs {horizon}")
            return self.values[:horizon].float()
        for time in times:
            if time not in self.row_of:
                raise DataError(f"{self.path} has no row for {time.isoformat(sep=' ')}, a step of the forecast")
        return self.values[[self.row_of[time] for time in times]].float()


def _check_finite(name: str, part: Tensor) -> None:
    """Check that all numbers are finite, as 32 bits hold them; in training they would look like a loss gone astray."""
    wrong = (~torch.isfinite(part)).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        came = f"{name}: row {row}, column {column} is {part[row, column].item()}"
        raise DataError(f"{came}; expected finite numbers (counted from 0, after rounding to 32 bits)")


def calendar_of(times: Sequence[datetime], cycles: Sequence[Cycle]) -> Tensor:
    """Return sine and cosine of each cycle at each time [N, 2 * cycles]."""
    turns: dict[Cycle, Any] = {
        "hour": lambda t: (t.hour + t.minute / 60) / 24,
        "weekday": lambda t: t.weekday() / 7,
        "month": lambda t: (t.month - 1 + (t.day - 1) / 31) / 12,
    }
    for cycle in cycles:
        if cycle not in turns:
            raise OptionError(unknown("cycle of the calendar", cycle, turns))
    rows = [[f(2 * math.pi * turns[c](t)) for c in cycles for f in (math.sin, math.cos)] for t in times]
    return torch.tensor(rows).reshape(len(times), 2 * len(cycles))


def _bounds(count: int, split: tuple[float, float, float]) -> dict[str, tuple[int, int]]:
    if len(split) != 3 or min(split) < 0 or (max(split) <= 1 and sum(split) > 1 + 1e-9):
        raise OptionError(
            f"split is {split}; expected three fractions that add up to 1 at most, or three numbers of rows"
        )
    sizes = [round(part * count) if max(split) <= 1 else round(part) for part in split]
    if max(split) <= 1 and abs(sum(split) - 1) < 1e-9:
        sizes[2 if split[2] else 1 if split[1] else 0] += count - sum(sizes)
    if sum(sizes) > count:
        raise DataError(f"split asks for {sum(sizes):,} rows; the series have {count:,}")
    ends = [sum(sizes[: i + 1]) for i in range(3)]
    return {name: (end - size, end) for name, size, end in zip(SPLITS, sizes, ends, strict=True)}
