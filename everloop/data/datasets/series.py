"""Series over time, cut into windows: what is known, and what follows it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import accumulate, islice
from typing import Any

import torch
from torch import Tensor

from everloop.data.batching.batch import Batch
from everloop.data.dataset import SPLITS, SequenceDataset, pass_seed
from everloop.data.datasets.calendar import calendar_of
from everloop.data.datasets.series_config import SeriesConfig, columns_of
from everloop.data.datasets.window_sizes import SEASON, WindowSizes, spans
from everloop.data.error_policy import ErrorPolicy
from everloop.data.lazy import Mapped
from everloop.data.readers.formats import block_reader, table_reader
from everloop.data.readers.frames import FrameSource
from everloop.data.readers.source import FileSource
from everloop.data.readers.tables import value_of
from everloop.data.readers.time_series import GAP, Track
from everloop.errors import DataError, OptionError

LOOKED = 10_000  # rows in which columns of numbers are looked for, at most


@dataclass(frozen=True)
class SeriesBatch(Batch):
    """Windows. past: [T, B, S]; extra: covariates, what was planned, calendar [T, B, C + P + K]; ahead: what is planned
    and the calendar to come [H, B, P + K]; future: [H, B, S]; static: what does not change, 1 at each value that is so
    [B, W], or one row for all. Everything is as in the file, not scaled; NaN where a number is missing."""

    past: Tensor
    extra: Tensor
    ahead: Tensor
    future: Tensor
    static: Tensor = field(default_factory=lambda: torch.zeros(1, 0))
    batch_first = ("static",)

    def rows(self, start: int, stop: int) -> SeriesBatch:
        if len(self.static) == self.size:
            return super().rows(start, stop)
        each = self.static.expand(self.size, -1)  # one row for all
        return replace(replace(self, static=each).rows(start, stop), static=self.static)


class Series(SequenceDataset[SeriesBatch, SeriesBatch]):
    """Series over time; the splits of each follow one another. An item is a batch of one window.

    The windows of a split forecast steps of that split, at least one number of them known; what is known before may
    begin in the split before.

    Args:
        values: [N, S], a column a series, NaN where a number is missing; of several groups one after another.
        extra: covariates [N, C]; None: none.
        times: the time of each step, for the calendar.
        config: the splits.
        context: T, steps known.
        horizon: H, steps to forecast.
        season: steps after which the series roughly repeat.
        planned: [N, P], what is known of steps to come too; None: nothing.
        breaks: the steps before which some are missing; no window reaches across.
        groups: the steps of each group by name, in the order of `values`; none: all are one.
        static: words by name, such as {"region": ["north", "south"]}: one for each group.
        categories: the words that a model knows, by name; None: those of `static`.

    Raises:
        DataError: there are too few steps, or a number is infinite.
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
        season: int = SEASON,
        planned: Tensor | None = None,
        breaks: Sequence[int] = (),
        groups: dict[str, int] | None = None,
        static: Mapping[str, Sequence[str]] | None = None,
        categories: Mapping[str, Sequence[str]] | None = None,
        errors: ErrorPolicy | None = None,
    ) -> None:
        super().__init__(config or SeriesConfig(), errors)
        self.context, self.horizon, self.season = context, horizon, season
        if context < 1 or horizon < 1:
            raise OptionError(f"context is {context} and horizon is {horizon}; expected at least 1")
        self.values = _rows(values)
        self.covariates = torch.zeros(len(values), 0) if extra is None else _rows(extra)
        self.planned = torch.zeros(len(values), 0) if planned is None else _rows(planned)
        for name, part in (("values", self.values), ("extra", self.covariates), ("planned", self.planned)):
            _check_numbers(name, part)
        self.groups = groups or {"": len(values)}
        if sum(self.groups.values()) != len(values):
            raise DataError(f"groups have {sum(self.groups.values()):,} steps; expected {len(values):,}, as in values")
        self.breaks = tuple(breaks)
        self.static = {name: tuple(words) for name, words in (static or {}).items()}
        self.categories = self._categories(categories)
        self.marked = torch.stack([one_hot(self.categories, words) for words in self._words()])  # [groups, W]
        self.calendar = calendar_of(times, self.config.calendar) if times else torch.zeros(len(values), 0)
        self.arranged = list[str]()  # what was done to the rows
        self.bounds = self._bounds()
        self.starts = {name: self._starts(name) for name in SPLITS}
        self.items = {name: Mapped(starts, self._item) for name, starts in self.starts.items()}
        needed = next((name for name in SPLITS if self.time_steps(name)), "train")
        if not len(self.starts[needed]):
            if all(bool(self.values[begin:end].isnan().all()) for begin, end in self.bounds[needed]):
                raise DataError(f"{', '.join(self.names)} has no number in the {needed} split; expected at least one")
            gaps = f" and {len(self.breaks):,} gaps" if self.breaks else ""
            needs = f"a window of {context} + {horizon} needs more" + (" in one piece" if gaps else "")
            raise DataError(f"the {needed} split has {self.time_steps(needed):,} steps{gaps}; {needs}")

    @classmethod
    def from_config(
        cls,
        config: SeriesConfig,
        *,
        context: int = 0,
        horizon: int = 0,
        season: int = 0,
        patch: int = 1,
        categories: Mapping[str, Sequence[str]] | None = None,
    ) -> Series:
        """Return the series that a configuration describes.

        Args:
            context, horizon, season: 0: as fits the data.
            patch: what the context is then a multiple of.
            categories: the words that a model knows.
        """
        if not config.train:
            raise DataError("no series given; name their file with --train FILE")
        errors, told = ErrorPolicy(config.malformed), list[str]()
        if not config.series:
            numbers = _numbers_of(config)
            if len(numbers) != 1:
                came = f"; columns of numbers: {', '.join(numbers)}" if numbers else ""
                raise OptionError(f"no series named; say what to forecast with --series COLUMN…{came}")
            config = replace(config, series=(numbers[0],))
            told.append(f"the series is {numbers[0]}, the only column of numbers (--series names others)")
        sources = [(FileSource(path, errors), block_reader(path, config.format)) for path in config.train]
        tracks = config.table(columns_of(config)).tracks(sources, told.append)
        return cls.of(tracks, config, errors, WindowSizes(context, horizon, season), patch, categories, told)

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        config: SeriesConfig,
        *,
        context: int = 0,
        horizon: int = 0,
        season: int = 0,
        patch: int = 1,
        categories: Mapping[str, Sequence[str]] | None = None,
    ) -> Series:
        """Return the series of a frame of pandas or polars, or of a mapping of columns by name, as `from_config` does.

        Raises:
            DataError: a column is missing, a cell is malformed, or a time occurs twice in a series.
        """
        source, told = FrameSource(frame, ErrorPolicy(config.malformed)), list[str]()
        tracks = config.table(columns_of(config)).tracks([(source, source.blocks)], told.append)
        return cls.of(tracks, config, source.errors, WindowSizes(context, horizon, season), patch, categories, told)

    @classmethod
    def of(
        cls,
        tracks: Sequence[Track],
        config: SeriesConfig,
        errors: ErrorPolicy | None,
        sizes: WindowSizes,
        patch: int = 1,
        categories: Mapping[str, Sequence[str]] | None = None,
        told: Sequence[str] = (),
    ) -> Series:
        """Return the series of a table, of which was told what was arranged."""
        counts = [len(track.values) for track in tracks]
        sizes, chosen = sizes.fitted(counts, tracks[0].times, config.split, patch)
        widths = [len(config.series), len(config.covariates), len(config.planned)]
        values, extra, planned = torch.split(torch.cat([track.values for track in tracks]), widths, 1)
        times = [time for track in tracks for time in track.times]
        begins = accumulate((len(track.values) for track in tracks), initial=0)
        breaks = [begin + at for begin, track in zip(begins, tracks, strict=False) for at in track.breaks]
        groups = {track.name: len(track.values) for track in tracks}
        static = {name: [track.static[i] for track in tracks] for i, name in enumerate(config.static)}
        named: dict[str, Any] = {"groups": groups, "static": static, "categories": categories}
        data = cls(values, extra, times, config, planned=planned, breaks=breaks, errors=errors, **vars(sizes), **named)
        data.arranged = [*told, *([chosen] if chosen else [])]
        return data

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the series."""
        return self.config.series or tuple(f"series {i + 1}" for i in range(self.values.shape[1]))

    @property
    def extras(self) -> tuple[int, int, int]:
        """The numbers a step has beside the series: covariates, what is planned, and calendar."""
        return self.covariates.shape[1], self.planned.shape[1], self.calendar.shape[1]

    @property
    def missing(self) -> bool:
        """Whether a number is missing."""
        return any(bool(part.isnan().any()) for part in (self.values, self.covariates, self.planned))

    def time_steps(self, split: str) -> int:
        return sum(end - begin for begin, end in self.bounds[split])

    def scale(self) -> tuple[Tensor, Tensor]:
        """Return (means, standard deviations) of series, covariates and what is planned in the training split.

        Raises:
            DataError: a column has no number there.
        """
        whole = torch.cat([self.values, self.covariates, self.planned], 1)
        known = torch.cat([whole[begin:end] for begin, end in self.bounds["train"]]).double()
        empty = known.isnan().all(0)
        if bool(empty.any()):
            names = (*self.names, *self.config.covariates, *self.config.planned)
            which = names[int(empty.nonzero()[0])] if len(names) == len(empty) else "a column"
            raise DataError(f"{which} has no number in the training split; expected at least one")
        if not self.missing:
            return known.mean(0).float(), known.std(0, unbiased=False).clamp_min(1e-8).float()
        mean = known.nanmean(0)
        return mean.float(), (known - mean).square().nanmean(0).sqrt().clamp_min(1e-8).float()

    def check_counts(self) -> None:
        """Check that the series are counts.

        Raises:
            DataError: a number is below 0, or not whole.
        """
        wrong = ((self.values < 0) | (self.values.frac() != 0)) & ~self.values.isnan()
        if bool(wrong.any()):
            row, column = wrong.nonzero()[0].tolist()
            came = f"{self.names[column]} is {self.values[row, column].item():g} in step {row + 1}"
            raise DataError(f"{came}; output negative-binomial is for counts, 0, 1, 2, …: take gaussian or quantile")

    def content(self) -> Iterator[bytes]:
        bounds = {name: spans[0] for name, spans in self.bounds.items()} if len(self.groups) == 1 else self.bounds
        cut = (bounds, self.context, self.horizon, *([self.breaks] if self.breaks else []))
        yield repr(cut).encode()
        yield from (part.numpy().tobytes() for part in (self.values, self.covariates, self.planned, self.calendar))
        if self.static:
            yield repr(self.static).encode()

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
        past, extra, ahead, future = (torch.cat(some, 1) for some in parts)
        return SeriesBatch(past, extra, ahead, future, torch.cat([one.static for one in items]))

    def _item(self, start: int) -> SeriesBatch:
        return self.window(torch.tensor([start]))

    def window(self, starts: Tensor) -> SeriesBatch:
        """Return the windows whose first unknown steps are these."""
        before = torch.arange(-self.context, 0)[:, None] + starts
        after = torch.arange(self.horizon)[:, None] + starts
        extra = torch.cat([self.covariates[before], self.planned[before], self.calendar[before]], -1)
        ahead = torch.cat([self.planned[after], self.calendar[after]], -1)
        ends = torch.tensor([*accumulate(self.groups.values())])
        static = self.marked[torch.bucketize(starts, ends, right=True)]
        return SeriesBatch(self.values[before], extra, ahead, self.values[after], static)

    def describe(self, batch: int) -> list[str]:
        of = f" of {len(self.groups):,} series" if len(self.groups) > 1 else ""
        return [f"{s}: {self.time_steps(s):,} steps{of}, {len(self[s]):,} windows" for s in self.splits]

    def notes(self, batch: int) -> list[str]:
        gaps = f"no window reaches across the gaps of {self.errors}" if self.breaks else str(self.errors)
        missing = [f"missing: {', '.join(self._missing())}; the model is told where"] if self.missing else []
        more = [*self._unknown(), *([gaps] if self.errors.skipped else [])]
        return [*self.describe(batch), *self.arranged, *missing, *more]

    def _words(self) -> list[tuple[str, ...]]:
        """Return the words of each group."""
        return [*zip(*self.static.values(), strict=True)] if self.static else [()] * len(self.groups)

    def _categories(self, known: Mapping[str, Sequence[str]] | None) -> dict[str, tuple[str, ...]]:
        """Return the words that the model knows, by name.

        Raises:
            DataError: there are not as many words as groups, or others by name than the model has.
        """
        for name, words in self.static.items():
            if len(words) != len(self.groups):
                raise DataError(f"static has {len(words):,} of {name}; expected {len(self.groups):,}, one a group")
        found = {name: tuple(sorted(set(words))) for name, words in self.static.items()}
        if known is not None and [*known] != [*found]:
            raise DataError(f"static is {', '.join(found) or 'nothing'}; the model has {', '.join(known) or 'nothing'}")
        return found if known is None else {name: tuple(words) for name, words in known.items()}

    def _unknown(self) -> Iterator[str]:
        for name, words in self.static.items():
            if new := [word for word in dict.fromkeys(words) if word not in self.categories[name]]:
                yield f"{name}: {', '.join(new[:5])} unknown to the model"

    def _missing(self) -> Iterator[str]:
        columns = (*self.names, *self.config.covariates, *self.config.planned)
        whole = torch.cat([self.values, self.covariates, self.planned], 1)
        for i, count in enumerate(whole.isnan().sum(0).tolist()):
            if count:
                name = columns[i] if len(columns) == whole.shape[1] else f"column {i + 1}"
                yield f"{name} {count:,} of {len(whole):,} ({count / len(whole):.1%})"

    def _bounds(self) -> dict[str, list[tuple[int, int]]]:
        """Return the steps of each split, a span for each group."""
        found: dict[str, list[tuple[int, int]]] = {name: [] for name in SPLITS}
        begin = 0
        for group, count in self.groups.items():
            for name, (first, end) in spans(count, self.config.split, group).items():
                found[name].append((begin + first, begin + end))
            begin += count
        return found

    def _starts(self, split: str) -> Sequence[int]:
        """Return the first unknown step of each window of a split."""
        begins = accumulate(self.groups.values(), initial=0)
        spans = [
            range(max(begin, group + self.context), max(begin, end - self.horizon + 1))
            for group, (begin, end) in zip(begins, self.bounds[split], strict=False)
        ]
        found: Sequence[int] = spans[0] if len(spans) == 1 else [start for span in spans for start in span]
        if self.breaks:
            breaks = [*self.breaks, len(self.values) + self.horizon]  # the last is beyond every window
            found = [s for s in found if breaks[bisect_right(breaks, s - self.context)] >= s + self.horizon]
        if bool(self.values.isnan().any()):
            known = [0, *(~self.values.isnan()).any(1).cumsum(0).tolist()]
            found = [s for s in found if known[s + self.horizon] > known[s]]
        return found

    def __repr__(self) -> str:
        several = f" and {len(self.groups):,} groups" if len(self.groups) > 1 else ""
        return f"Series({len(self.values):,} steps of {', '.join(self.names)}{several})"


def one_hot(categories: Mapping[str, Sequence[str]], words: Sequence[str]) -> Tensor:
    """Return words, one of each name, as 1 at each that is so among those that are known [W]."""
    pairs = zip(categories.values(), words, strict=True)
    return torch.tensor([float(word == known) for several, word in pairs for known in several])


def _numbers_of(config: SeriesConfig) -> list[str]:
    """Return the columns whose first cell that is not missing is a number, and that nothing else names."""
    is_number = dict[str, bool | None]()  # None: not known yet

    def see(line: int, fields: Mapping[str, Any]) -> None:
        if not (is_number or config.columns) and all(value_of(name, "number") is not None for name in fields):
            came = f"{path}: the first line has numbers alone ({', '.join(fields)}), not the names of columns"
            raise DataError(f"{came}; name them with --columns, or one that is the series with --series")
        for name, cell in fields.items():
            if is_number.get(name) is None:
                number = value_of(cell, "value")
                is_number[name] = None if number != number else number is not None

    path = config.train[0]
    errors = ErrorPolicy(config.malformed, advice=GAP)
    source = FileSource(path, errors, header="yes")  # without columns to look for, none is recognised
    for _ in islice(table_reader(path, config.format)(source, {}, config.columns, see), LOOKED):
        if None not in is_number.values():
            break
    if not is_number:
        raise errors.nothing(path, "the names of columns above it")
    named = {*config.covariates, *config.planned, *config.time, *config.group, *config.static}
    return [name for name, known in is_number.items() if known and name not in named]


def _rows(numbers: Any) -> Tensor:
    """Return numbers [T, columns] as a tensor; one axis is one column."""
    found = torch.as_tensor(numbers).float()
    return found[:, None] if found.dim() == 1 else found


def _check_numbers(name: str, part: Tensor) -> None:
    """Check that no number is infinite, as 32 bits hold them; in training it would look like a loss gone astray."""
    wrong = part.isinf().nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        came = f"{name}: row {row}, column {column} is {part[row, column].item()}"
        raise DataError(f"{came}; expected finite numbers, or NaN for missing ones (counted from 0, after rounding)")
