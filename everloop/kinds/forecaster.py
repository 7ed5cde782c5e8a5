"""Forecasters: what comes next in series of numbers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor

from everloop.data.datasets.series import Plans, Series, SeriesBatch, SeriesConfig, calendar_of
from everloop.data.readers.formats import table_endings, table_reader
from everloop.errors import DataError, OptionError
from everloop.kinds.decoding import PredictOptions
from everloop.kinds.source import PredictSource
from everloop.models.forecaster import Forecaster, ForecasterConfig
from everloop.models.kind import Kind


def dataset(config: SeriesConfig, shape: ForecasterConfig, model: Forecaster | None) -> Series:
    """Return the series that a configuration describes, as windows of the model's size."""
    return Series.from_config(config, context=shape.context, horizon=shape.horizon)


def predict(model: Forecaster, config: SeriesConfig, source: PredictSource, options: PredictOptions) -> Iterator[str]:
    """Yield a forecast as CSV: at the end of what is read, or after every so many rows."""
    if options.stride is not None and options.stride < 1:
        raise OptionError(f"stride is {options.stride}; expected at least 1")
    plans = _plans(config, source, options)
    chosen = source.chosen_format(table_endings(), "csv")
    numbers = (*config.series, *config.covariates, *config.planned)
    table = replace(config, columns=source.columns or config.columns).table(numbers)
    yield ",".join([config.time or "step", *_headings(model)]) + "\n"
    context, count = model.config.context, 0
    known: deque[list[float]] = deque(maxlen=context)
    times: deque[datetime] = deque(maxlen=context)
    rows = table_reader(source.path, chosen)
    for broken, row in table.steps(source, rows, ends=not source.piped):
        if broken:  # a forecast knows the rows since the gap alone
            known.clear()
            times.clear()
        known.append([row[name] for name in numbers])
        if config.time:
            times.append(row[config.time])
        count += 1
        if options.stride and len(known) == context and count % options.stride == 0:
            yield from _forecast(model, config, torch.tensor([*known]), [*times], count, plans)
    if len(known) < context:
        since = " since its last gap" if len(known) < count else ""
        raise DataError(f"{source.place} has {len(known)} rows{since}; a forecast needs {context} before it")
    if not options.stride:
        yield from _forecast(model, config, torch.tensor([*known]), [*times], count, plans)


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


def _headings(model: Forecaster) -> list[str]:
    ends = [""]
    if model.config.output == "gaussian":
        ends = ["", "_deviation"]
    elif model.config.output == "quantile":
        ends = ["", *(f"_{q:g}" for q in sorted(model.config.quantiles))]
    return [f"{name}{end}" for name in model.names for end in ends]


def _forecast(
    model: Forecaster, config: SeriesConfig, known: Tensor, times: list[datetime], count: int, plans: Plans | None
) -> Iterator[str]:
    series, horizon = len(model.names), model.config.horizon
    step = times[-1] - times[-2] if len(times) > 1 else None
    to_come = [times[-1] + step * (i + 1) for i in range(horizon)] if step is not None else []
    cycles = config.calendar if times else ()
    before = calendar_of(times, cycles) if cycles else torch.zeros(len(known), 0)
    ahead = calendar_of(to_come, cycles) if cycles else torch.zeros(horizon, 0)
    if plans is not None:
        ahead = torch.cat([plans.ahead(to_come, horizon), ahead], 1)
    extra = torch.cat([known[:, series:], before], 1)
    batch = SeriesBatch(known[:, None, :series], extra[:, None], ahead[:, None], torch.zeros(horizon, 1, series))
    forecast = model.forecast(batch.to(model.mean.device))
    parts = [forecast.point[:, 0, :, None]]
    if forecast.spread is not None:
        parts.append(forecast.spread[:, 0, :, None])
    if forecast.quantiles is not None:
        parts.append(forecast.quantiles[:, 0])
    for i, row in enumerate(torch.cat(parts, -1).flatten(1).tolist()):
        when = to_come[i].isoformat(sep=" ") if to_come else str(count + i + 1)
        yield ",".join([when, *(f"{value:.6g}" for value in row)]) + "\n"


def evaluation_dataset(model: Forecaster, config: SeriesConfig, path: Path, labels: Path | None) -> Series:
    """Return the series of a file as the test split of the model's data."""
    if labels is not None:
        raise OptionError("--labels is for IDX images; a forecaster needs none")
    return dataset(replace(config, train=path, split=(0.0, 0.0, 1.0)), model.config, model)


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
)
