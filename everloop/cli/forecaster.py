"""`everloop train forecaster`, and what `predict` and `evaluate` do with one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor

from everloop.cli.asked import Asked
from everloop.cli.figures import print_notes, show
from everloop.cli.kind import Common, train_kind
from everloop.cli.source import Source
from everloop.data.datasets.forecasts import Plans, Series, SeriesBatch, SeriesConfig, calendar_of
from everloop.data.readers.formats import table_endings, table_reader
from everloop.errors import DataError, OptionError
from everloop.models.forecaster import Forecaster, ForecasterConfig
from everloop.train import TrainConfig

KIND, TAKES = Forecaster.kind, ("every", "columns", "plans")


@dataclass(frozen=True)
class Options(Common):
    """What `everloop train forecaster` can be told."""

    data: SeriesConfig = field(default_factory=SeriesConfig)
    model: ForecasterConfig = field(default_factory=ForecasterConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(lr=1e-3))


def main(args: Sequence[str]) -> int:
    """Run `everloop train forecaster`; 130 if it was interrupted."""
    return train_kind(KIND, Options, prepare, show, args, "Train a forecaster: what comes next in series of numbers.")


def prepare(options: Options, resumed: Path | None) -> tuple[Series, Forecaster]:
    """Return the data and the untrained model of these options."""
    data = Series.from_config(options.data, context=options.model.context, horizon=options.model.horizon)
    print_notes(data, options.train.batch)
    return data, Forecaster.of(data, options.model)


def predict(model: Forecaster, config: SeriesConfig, source: Source, asked: Asked) -> Iterator[str]:
    """Yield a forecast as CSV: at the end of what is read, or after every so many rows."""
    if asked.every is not None and asked.every < 1:
        raise OptionError(f"every is {asked.every}; expected at least 1")
    plans = _plans(config, source, asked)
    form = source.chosen(table_endings(), "csv")
    numbers = (*config.series, *config.covariates, *config.planned)
    table = replace(config, columns=source.columns or config.columns).table(numbers)
    yield ",".join([config.time or "step", *_headings(model)]) + "\n"
    context, count = model.config.context, 0
    known: deque[list[float]] = deque(maxlen=context)
    times: deque[datetime] = deque(maxlen=context)
    rows = table_reader(source.path, form)
    for broken, row in table.steps(source, rows, ends=not source.piped):
        if broken:  # a forecast knows the rows since the gap alone
            known.clear()
            times.clear()
        known.append([row[name] for name in numbers])
        if config.time:
            times.append(row[config.time])
        count += 1
        if asked.every and len(known) == context and count % asked.every == 0:
            yield from _forecast(model, config, torch.tensor([*known]), [*times], count, plans)
    if len(known) < context:
        since = " since its last gap" if len(known) < count else ""
        raise DataError(f"{source.place} has {len(known)} rows{since}; a forecast needs {context} before it")
    if not asked.every:
        yield from _forecast(model, config, torch.tensor([*known]), [*times], count, plans)


def _plans(config: SeriesConfig, source: Source, asked: Asked) -> Plans | None:
    """Return what is planned, of a model that knows plans.

    Raises:
        OptionError: it is missing, or the model knows none.
    """
    if bool(asked.plans) != bool(config.planned):
        named = f"expects {', '.join(config.planned)} for the steps to come; name their table with --plans FILE"
        raise OptionError(f"this model {named if config.planned else 'was trained without planned columns'}")
    if asked.plans and asked.every and not config.time:
        raise OptionError("--every with --plans needs the times of the rows: train with --time COLUMN")
    return Plans(asked.plans, config, source.errors) if asked.plans else None


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
    said = model.forecast(batch.to(model.mean.device))
    parts = [said.point[:, 0, :, None]]
    if said.spread is not None:
        parts.append(said.spread[:, 0, :, None])
    if said.quantiles is not None:
        parts.append(said.quantiles[:, 0])
    for i, row in enumerate(torch.cat(parts, -1).flatten(1).tolist()):
        when = to_come[i].isoformat(sep=" ") if to_come else str(count + i + 1)
        yield ",".join([when, *(f"{value:.6g}" for value in row)]) + "\n"


def given(model: Forecaster, config: SeriesConfig, path: Path, labels: Path | None = None) -> Series:
    """Return the series of a file as the test part of the model's data."""
    if labels is not None:
        raise OptionError("--labels is for IDX images; a forecaster needs none")
    return own(model, replace(config, train=path, split=(0.0, 0.0, 1.0)))


def own(model: Forecaster, config: SeriesConfig) -> Series:
    """Return the data that the model was trained with."""
    return Series.from_config(config, context=model.config.context, horizon=model.config.horizon)
