"""Forecasts as rows of a table, for each series those of what comes after its last row; from files and from frames."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

from everloop.data.datasets.calendar import calendar_of
from everloop.data.datasets.plans import Plans
from everloop.data.datasets.series import SeriesBatch, one_hot
from everloop.data.datasets.series_config import SeriesConfig, columns_of
from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.frames import FrameSource, frame_of
from everloop.data.readers.time_series import Track
from everloop.data.spacing import Spacing, spacing
from everloop.errors import DataError, OptionError
from everloop.models.forecaster import Forecaster
from everloop.models.run import RunConfig


class ForecastRows:
    """Makes the rows of forecasts: the columns of the group, the time or the step, and what the model says of each.

    Args:
        model: trained.
        config: how its data is read.
        plans: what is planned for the steps to come, of a model that knows plans.
        tell: called with what a user should know.
    """

    def __init__(
        self,
        model: Forecaster,
        config: SeriesConfig,
        plans: Plans | None = None,
        tell: Callable[[str], None] = lambda told: None,
    ) -> None:
        self.model, self.config, self.plans, self.tell = model, config, plans, tell

    @property
    def headings(self) -> list[str]:
        """The names of the columns."""
        time = self.config.time
        when = time[0] if len(time) == 1 else "time" if time else "step"
        endings = ["", *(f"_{ending}" for ending in self.model.output.endings)]
        return [*self.config.group, when, *(f"{name}{ending}" for name in self.model.names for ending in endings)]

    def __call__(self, track: Track, end: int, count: int | None = None) -> Iterator[list[Any]]:
        """Yield the rows that follow the first `end` steps of a series, the last of which is its step `count`."""
        model, config = self.model, self.config
        series, horizon, context = len(model.names), model.config.horizon, model.config.context
        times, known = track.times[:end], track.values[end - context : end].float()
        step = spacing(times) or (Spacing(seconds=(times[-1] - times[-2]).total_seconds()) if len(times) > 1 else None)
        to_come = [step.after(times[-1], i + 1) for i in range(horizon)] if step is not None else []
        cycles = config.calendar if times else ()
        before = calendar_of(times[-context:], cycles) if cycles else torch.zeros(len(known), 0)
        ahead = calendar_of(to_come, cycles) if cycles else torch.zeros(horizon, 0)
        if self.plans is not None:
            ahead = torch.cat([self.plans.ahead(to_come, horizon, track.name), ahead], 1)
        extra = torch.cat([known[:, series:], before], 1)[:, None]
        future, static = torch.zeros(horizon, 1, series), self._static(track)
        batch = SeriesBatch(known[:, None, :series], extra, ahead[:, None], future, static)
        forecast = model.forecast(batch.to(model.mean.device))
        parts = [forecast.point[:, 0, :, None]]
        if forecast.spread is not None:
            parts.append(forecast.spread[:, 0, :, None])
        if forecast.quantiles is not None:
            parts.append(forecast.quantiles[:, 0])
        for i, row in enumerate(torch.cat(parts, -1).flatten(1).tolist()):
            yield [*track.keys, to_come[i] if to_come else (count or end) + i + 1, *row]

    def _static(self, track: Track) -> torch.Tensor:
        for (name, known), word in zip(self.model.static.items(), track.static, strict=True):
            if word not in known:
                self.tell(f"{name}: {word} is unknown to the model")
        return one_hot(self.model.static, track.static)[None]


def forecast_frame(
    model: Forecaster | str | os.PathLike[str],
    frame: Any,
    config: SeriesConfig | None = None,
    *,
    plans: Any = None,
    tell: Callable[[str], None] = lambda told: None,
) -> Any:
    """Return what comes after the last row of each series of a frame, as a frame of the same library.

    Args:
        model: a trained forecaster, or its run folder.
        frame: of pandas or polars, or a mapping of columns by name; a row a time step, as in training.
        config: how it is read: that of the data of the model, `data.config`; a run folder knows it.
        plans: of a model with planned columns, a frame with these (and time and group) for the steps to come.
        tell: called with what was arranged: rows sorted, steps put in.

    Raises:
        DataError: a column is missing, a cell is malformed, or a series has too few rows.
        OptionError: there is no config, or a model that knows plans is given none.
    """
    if not isinstance(model, Forecaster):
        run = RunConfig.read(model)
        config = config or run.settings("data", SeriesConfig)
        loaded = run.load()
        if not isinstance(loaded, Forecaster):
            raise OptionError(f"{model} holds a {loaded.kind}; expected a forecaster")
        model = loaded
    if config is None:
        raise OptionError("config is None; expected that of the data the model was trained on: data.config")
    if (plans is None) == bool(config.planned):
        needs = f"needs a frame with {', '.join(config.planned)}" if config.planned else "was trained without plans"
        raise OptionError(f"plans is {'None' if plans is None else 'given'}; this model {needs}")
    source = FrameSource(frame, ErrorPolicy(config.malformed))
    known = None if plans is None else Plans.of(FrameSource(plans, ErrorPolicy(), "the frame of plans"), config)
    made, context = ForecastRows(model, config, known, tell), model.config.context
    rows: list[list[Any]] = []
    for track in config.table(columns_of(config)).tracks([(source, source.blocks)], tell):
        begin = track.breaks[-1] if track.breaks else 0
        if len(track.values) - begin < context:
            of = f" of series {track.name}" if config.group else ""
            raise DataError(f"{source.place} has {len(track.values) - begin} rows{of}; a forecast needs {context}")
        rows += made(track, len(track.values))
    return frame_of(frame, dict(zip(made.headings, map(list, zip(*rows, strict=True)), strict=True)))
