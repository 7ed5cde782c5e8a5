"""How a forecaster would have done: forecasts from one origin after another, beside those that need no network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from everloop.data.datasets.series import Series
from everloop.errors import DataError, OptionError, unknown
from everloop.models.forecast import Forecast
from everloop.models.forecaster import Forecaster
from everloop.train.baselines import BASELINES, FEWEST, has_smoothing
from everloop.train.forecast_scores import MODEL, SUMS, Backtest, Example


def backtest(
    model: Forecaster,
    data: Series,
    split: str = "test",
    *,
    stride: int | None = None,
    coverage: float | None = None,
    season: int | None = None,
    baselines: Sequence[str] | None = None,
    batch: int = 256,
    tell: Callable[[str], None] = lambda told: None,
) -> Backtest:
    """Return how a model would have forecast a split, from an origin every `stride` steps, without learning more.

    Args:
        model: trained.
        data: its series, or others with the same columns.
        split: whose steps are forecast.
        stride: steps from one origin to the next; None: the horizon, so that each step is forecast once.
        coverage: the probability of the interval; None: 0.8, or of quantiles the widest pair around the median.
        season: steps after which the series roughly repeat; None: the model's.
        baselines: "last", "seasonal", "drift", "smoothing"; None: all that can be had.
        batch: forecasts at once.
        tell: called with what is being done.

    Raises:
        DataError: the split is empty.
        OptionError: an option makes no sense, or a baseline needs a package that is not installed.
    """
    stride = model.config.horizon if stride is None else stride
    season = model.config.season if season is None else season
    if stride < 1 or season < 1:
        raise OptionError(f"stride is {stride} and season is {season}; expected at least 1")
    names = _names(baselines)
    if split not in data.splits:
        raise DataError(f"the data has no {split} split; it has: {', '.join(data.splits) or 'none'}")
    tracks = _tracks(data, split, stride)
    level = _level(model, coverage)
    done = [track.scored(model, data, level, season, names, batch, tell) for track in tracks]
    parts, notes = [part for found, _ in done for part in found], [note for _, told in done for note in told]
    methods = tuple(n for n in (MODEL, *names) if any(n in part.sums for part in parts))
    sums = {
        name: torch.stack([torch.stack([part.of(method)[k] for part in parts]) for method in methods])
        for k, name in enumerate(SUMS)
    }
    if baselines is None and not has_smoothing():
        notes.append("without exponential smoothing, which needs statsmodels: pip install 'everloop[forecast]'")
    return Backtest(
        methods,
        tuple(part.example.series for part in parts),
        sum(len(track.starts) for track in tracks),
        model.config.horizon,
        stride,
        level,
        season,
        sums,
        torch.stack([part.count for part in parts]),
        tuple(dict.fromkeys(notes)),
        tuple(part.example for part in parts),
    )


@dataclass(frozen=True)
class _Part:
    """One column of one group: the sums [6, H] of each method, and the count [H]."""

    sums: dict[str, Tensor]
    count: Tensor
    example: Example

    def of(self, method: str) -> Tensor:
        return self.sums.get(method, torch.full((len(SUMS), len(self.count)), math.nan, dtype=torch.float64))


@dataclass(frozen=True)
class _Track:
    """A group: its name, where it begins in the data, and the steps that forecasts begin with."""

    name: str
    begin: int
    end: int
    starts: list[int]

    def scored(
        self,
        model: Forecaster,
        data: Series,
        level: float | None,
        season: int,
        names: Sequence[str],
        batch: int,
        tell: Callable[[str], None],
    ) -> tuple[list[_Part], list[str]]:
        """Return the sums of each column, and what was left out."""
        tell(f"{self.name or ', '.join(data.names)}: {len(self.starts):,} forecasts")
        found = _forecasts(model, data, self.starts, batch)
        low, high = found.interval(level) if level is not None else (None, None)
        parts, notes = [], []
        for column, called in enumerate(data.names):
            name = " ".join(
                part for part in (self.name, called if len(data.names) > 1 or not self.name else "") if part
            )
            series = data.values[self.begin : self.end, column].double()
            starts = [start - self.begin for start in self.starts]
            ahead = torch.tensor(starts) + torch.arange(model.config.horizon)[:, None]
            actual, before = series[ahead], series[: starts[0]]
            errors = (before[season:] - before[:-season]).abs()
            scale = float(errors.nanmean()) if len(errors) else math.nan
            own = _column(found, column)
            sums = {MODEL: _sums(own, actual, scale, level)}
            for one in names:
                if one == "seasonal" and not 1 < season <= starts[0]:
                    notes.append(f"without the seasonal baseline: season is {season}, and {starts[0]} steps are known")
                    continue
                if one == "smoothing" and starts[0] < FEWEST:
                    notes.append(f"without exponential smoothing: {starts[0]} steps are known, and it needs {FEWEST}")
                    continue
                mean, spread = BASELINES[one](series, starts, model.config.horizon, season)
                sums[one] = _sums(Forecast(mean, spread), actual, scale, level)
            ends = [None if end is None else end[..., column].double() for end in (low, high)]
            example = Example(name, series, tuple(starts), own.point, *ends)
            parts.append(_Part(sums, (~actual.isnan()).sum(1), example))
            if not scale > 0:
                notes.append(f"{name} has no MASE: before the first forecast it repeats itself after {season} steps")
        return parts, notes


def _tracks(data: Series, split: str, stride: int) -> list[_Track]:
    starts = torch.tensor(list(data.starts[split]))
    begins = [*accumulate(data.groups.values(), initial=0)]
    found = []
    for name, begin, end in zip(data.groups, begins, begins[1:], strict=False):
        own = starts[(starts >= begin) & (starts < end)]
        if len(own):
            found.append(_Track(name, begin, end, own[(own - own[0]) % stride == 0].tolist()))
    return found


def _forecasts(model: Forecaster, data: Series, starts: Sequence[int], batch: int) -> Forecast:
    device = model.mean.device
    windows = (data.window(torch.tensor(starts[i : i + batch])) for i in range(0, len(starts), batch))
    parts = [model.forecast(window.to(device)) for window in windows]
    tensors = {
        name: torch.cat([getattr(part, name).cpu() for part in parts], 1)
        for name in ("point", "spread", "quantiles", "dispersion")
        if getattr(parts[0], name) is not None
    }
    return Forecast(**tensors, levels=parts[0].levels)


def _column(found: Forecast, column: int) -> Forecast:
    """Return the forecasts [H, n] of one series, in float64."""
    tensors = {
        name: getattr(found, name)[:, :, column].double()
        for name in ("point", "spread", "quantiles", "dispersion")
        if getattr(found, name) is not None
    }
    return Forecast(**tensors, levels=found.levels)


def _sums(found: Forecast, actual: Tensor, scale: float, level: float | None) -> Tensor:
    """Return the sums [6, H] over origins of SUMS; NaN where one is not known."""
    error = (actual - found.point).abs()
    size = actual.abs() + found.point.abs()
    symmetric = torch.where(size > 0, 200 * error / size.clamp_min(torch.finfo(size.dtype).tiny), size)
    inside = torch.full_like(error, math.nan)
    if level is not None:
        low, high = found.interval(level)
        inside = ((low <= actual) & (actual <= high)).to(error.dtype)
        inside[(low.isnan() | high.isnan())] = math.nan
    scaled = error / scale if scale > 0 else torch.full_like(error, math.nan)
    each = torch.stack([error, error.square(), scaled, symmetric, found.crps(actual), inside])
    return torch.where(actual.isnan(), 0, each).sum(-1)


def _level(model: Forecaster, coverage: float | None) -> float | None:
    """Return the probability of the interval that the model tells, None if it tells none.

    Raises:
        OptionError: another one is asked for.
    """
    if coverage is not None and not 0 < coverage < 1:
        raise OptionError(f"coverage is {coverage}; expected a number between 0 and 1")
    output, levels = model.config.output, model.config.quantiles
    if output == "point":
        if coverage is not None:
            hint = "train it with --output gaussian"
            raise OptionError(f"coverage is {coverage}; this model forecasts a number without interval: {hint}")
        return None
    if output != "quantile":
        return coverage or 0.8
    pairs = sorted(
        {round(1 - 2 * q, 9) for q in levels if q < 0.5 and any(abs(1 - q - other) < 1e-6 for other in levels)}
    )
    if coverage is None:
        return pairs[-1] if pairs else None
    if not any(abs(coverage - one) < 1e-6 for one in pairs):
        has = ", ".join(f"{one:g}" for one in pairs) or "none"
        raise OptionError(f"coverage is {coverage}; the quantiles of this model tell intervals of {has}")
    return coverage


def _names(baselines: Sequence[str] | None) -> list[str]:
    if baselines is None:
        return [name for name in BASELINES if name != "smoothing" or has_smoothing()]
    for name in baselines:
        if name not in BASELINES:
            raise OptionError(unknown("baseline", name, BASELINES))
    return list(dict.fromkeys(baselines))
