"""Forecasters: what comes next in series of numbers."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from everloop.data.datasets.plans import Plans
from everloop.data.datasets.series import Series
from everloop.data.datasets.series_config import SeriesConfig, columns_of
from everloop.data.readers.formats import block_reader, table_endings, table_reader
from everloop.data.readers.time_series import Step, Track
from everloop.data.spacing import spacing
from everloop.errors import DataError, OptionError
from everloop.kinds.decoding import PredictOptions
from everloop.kinds.source import PredictSource, headed
from everloop.models.forecast_rows import ForecastRows
from everloop.models.forecaster import Forecaster, ForecasterConfig
from everloop.models.kind import Kind


def dataset(config: SeriesConfig, shape: ForecasterConfig, model: Forecaster | None) -> Series:
    """Return the series that a configuration describes, as windows of the model's size."""
    known = None if model is None else model.static
    sizes = {"context": shape.context, "horizon": shape.horizon, "season": shape.season}
    return Series.from_config(config, **sizes, patch=shape.patch, categories=known)


def predict(model: Forecaster, config: SeriesConfig, source: PredictSource, options: PredictOptions) -> Iterator[str]:
    """Yield a forecast of each series as CSV: at the end of what is read, or after every so many rows of it."""
    if options.stride is not None and options.stride < 1:
        raise OptionError(f"stride is {options.stride}; expected at least 1")
    config = replace(config, columns=source.columns or config.columns)
    told = list[str]()
    made = ForecastRows(model, config, _plans(config, source, options), told.append)
    yield from headed(",".join(made.headings) + "\n", _forecasts(made, config, source, options, told))
    source.notes.extend(told)


def _forecasts(
    made: ForecastRows, config: SeriesConfig, source: PredictSource, options: PredictOptions, told: list[str]
) -> Iterator[str]:
    form = source.chosen_format(table_endings(), "csv")
    table = config.table(columns_of(config))
    if options.stride and source.piped:
        yield from _as_they_come(made, table.steps(source, table_reader(source.path, form), ends=False), options.stride)
        return
    for track in table.tracks([(source, block_reader(source.path, form))], told.append, ends=not source.piped):
        count, context = len(track.values), made.model.config.context
        begin = track.breaks[-1] if track.breaks else 0
        if count - begin < context:
            of = f" of series {track.name}" if config.group else ""
            since = " since its last gap" if begin else ""
            raise DataError(f"{source.place} has {count - begin} rows{of}{since}; a forecast needs {context} before it")
        ends = range(options.stride, count + 1, options.stride) if options.stride else (count,)
        for end in ends:
            if end - max((at for at in track.breaks if at < end), default=0) >= context:
                yield from map(_line, made(track, end))


def _as_they_come(made: ForecastRows, steps: Iterator[Step], stride: int) -> Iterator[str]:
    """Yield a forecast of a series after every so many of its rows, as soon as they are read.

    Raises:
        DataError: a row does not come after the one before it.
    """
    context = made.model.config.context
    known: dict[str, Recent] = {}
    for step in steps:
        recent = known.setdefault(step.series, Recent(context))
        recent.add(step)
        if len(recent.rows) == context and recent.count % stride == 0:
            values, times = torch.tensor([*recent.rows]), [*recent.times]
            track = Track(step.series, values, times, [], step.static, step.keys)
            yield from map(_line, made(track, len(values), recent.count))


def _line(row: list[Any]) -> str:
    """Return a row of a forecast as a line of CSV."""
    cells = (f"{cell:.6g}" if isinstance(cell, float) else _time(cell) for cell in row)
    return ",".join(cells) + "\n"


def _time(cell: Any) -> str:
    return cell.isoformat(sep=" ") if isinstance(cell, datetime) else str(cell)


class Recent:
    """The last rows of a series, as they come; steps without a row between two times are missing."""

    def __init__(self, context: int) -> None:
        self.rows: deque[list[float]] = deque(maxlen=context)
        self.times: deque[datetime] = deque(maxlen=context)
        self.count = 0

    def add(self, step: Step) -> None:
        """Take in a row.

        Raises:
            DataError: it does not come after the one before.
        """
        if step.gap and step.time is None:  # a forecast knows the rows since the gap alone
            self.rows.clear()
        if step.time is not None and self.times:
            before = self.times[-1]
            if step.time <= before:
                raise DataError(f"line {step.line}: {step.time} does not come after {before}; expected rising times")
            even = spacing([*self.times, step.time])
            for i in range(1, round(even.between(before, step.time)) if even else 0):
                self.rows.append([math.nan] * len(step.numbers))
                self.times.append(even.after(before, i) if even else before)
                self.count += 1
        self.rows.append(step.numbers)
        if step.time is not None:
            self.times.append(step.time)
        self.count += 1


def _plans(config: SeriesConfig, source: PredictSource, options: PredictOptions) -> Plans | None:
    """Return what is planned, of a model that knows plans.

    Raises:
        OptionError: it is missing, or the model knows none.
    """
    if bool(options.plans) != bool(config.planned):
        named = f"expects {', '.join(config.planned)} for the steps to come; name their table with --plans FILE"
        raise OptionError(f"this model {named if config.planned else 'was trained without planned columns'}")
    if options.plans and options.stride and not config.time:
        raise OptionError("--stride with --plans needs the times of the rows: train with --time COLUMN")
    return Plans(options.plans, config, source.errors) if options.plans else None


def evaluation_dataset(model: Forecaster, config: SeriesConfig, path: Path, labels: Path | None) -> Series:
    """Return the series of a file as the test split of the model's data."""
    if labels is not None:
        raise OptionError("--labels is for IDX images; a forecaster needs none")
    return dataset(replace(config, train=(path,), split=(0.0, 0.0, 1.0)), model.config, model)


KIND = Kind(
    model=Forecaster,
    model_config=ForecasterConfig,
    data_config=SeriesConfig,
    description="Train a forecaster: what comes next in series of numbers.",
    dataset=dataset,
    create_model=Forecaster.of,
    evaluation_dataset=evaluation_dataset,
    predict=predict,
    predict_options=("stride", "columns", "plans"),
    also=("forecast", "forecasting", "regression", "time-series"),
)
