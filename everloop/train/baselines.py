"""Forecasts that need no network, each with its spread: what a model has to beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from warnings import catch_warnings, filterwarnings

import numpy as np
import torch
from torch import Tensor

from everloop.errors import OptionError
from everloop.models.missing import filled

LONGEST_SEASON = 60  # steps, above which exponential smoothing knows no season: its state has one number for each
FEWEST = 10  # steps before the first forecast of which exponential smoothing finds its first level and trend
FITTED = 1000  # steps that exponential smoothing is fitted on

# (series [N] in float64 with NaN where a number is missing, steps that forecasts begin with, horizon, season) ->
# means and standard deviations, two of [H, n]. Only what stands before a step is read for it, and for spread and
# parameters only what stands before the first.
Baseline = Callable[[Tensor, Sequence[int], int, int], tuple[Tensor, Tensor]]


def last_value(series: Tensor, starts: Sequence[int], horizon: int, season: int = 1) -> tuple[Tensor, Tensor]:
    """The last value known, whose errors grow as those of a random walk, σ √h."""
    deviation = _rms(series[: starts[0]].diff())
    last = _known(series, 1)[torch.tensor(starts) - 1]
    return last.expand(horizon, -1), (deviation * _ahead(horizon).sqrt()).expand(-1, len(starts))


def seasonal(series: Tensor, starts: Sequence[int], horizon: int, season: int) -> tuple[Tensor, Tensor]:
    """The same step of the last season in which it is known; σ √k in the k-th season to come."""
    ahead = torch.arange(horizon)[:, None]
    before = series[: starts[0]]
    deviation = _rms(before[season:] - before[:-season])
    places = torch.tensor(starts) - season + ahead % season
    return _known(series, season)[places], (deviation * (ahead // season + 1).sqrt()).expand_as(places)


def drift(series: Tensor, starts: Sequence[int], horizon: int, season: int = 1) -> tuple[Tensor, Tensor]:
    """The line through the first and the last value known; σ √(h (1 + h / (T - 1)))."""
    first = int((~series.isnan()).double().argmax())
    last, ahead = _known(series, 1)[torch.tensor(starts) - 1], _ahead(horizon)
    steps = (torch.tensor(starts) - 1 - first).clamp_min(1).double()
    differences = series[: starts[0]].diff()
    deviation = _rms(differences - differences.nanmean())
    return last + (last - series[first]) / steps * ahead, deviation * (ahead * (1 + ahead / steps)).sqrt()


def exponential_smoothing(series: Tensor, starts: Sequence[int], horizon: int, season: int) -> tuple[Tensor, Tensor]:
    """Exponential smoothing with a damped trend and a season, all additive; parameters by likelihood, by statsmodels.

    Hyndman, Koehler, Ord and Snyder, "Forecasting with exponential smoothing: the state space approach", 2008; the
    variances of its table 6.1 are σ² (1 + Σ c²), where c_j = α + β (φ + … + φ^j), and γ more where j is a season. For
    a missing number stands that of a season before. A season of which too few steps are known is left out.

    Raises:
        OptionError: statsmodels is not installed.
    """
    known = max(2 * season, FEWEST + 2 * (season // 2))  # from which statsmodels finds a first season
    cycle = season if 1 < season <= LONGEST_SEASON and known <= starts[0] else 0
    values = _known(series, cycle or 1).numpy()
    with catch_warnings():
        filterwarnings("ignore")  # of a fit that has not converged, or of a series that is a line
        fitted = _smoother(values[max(0, starts[0] - FITTED) : starts[0]], cycle).fit(disp=False)
        states = torch.from_numpy(np.array(_smoother(values, cycle).smooth(fitted.params).states))  # after each step
    named = dict(zip(fitted.model.param_names, fitted.params, strict=True))
    alpha, beta, gamma, phi = (
        float(named.get(name, 0))
        for name in ("smoothing_level", "smoothing_trend", "smoothing_seasonal", "damping_trend")
    )
    last, ahead = torch.tensor(starts) - 1, torch.arange(1, horizon + 1)[:, None]
    damped = (phi ** _ahead(horizon)).cumsum(0)
    mean = states[last, 0] + damped * states[last, 1]
    change = alpha + beta * damped
    if cycle:
        mean = mean + states[last - cycle + 1 + (ahead - 1) % cycle, 2]
        change = change + gamma * (ahead % cycle == 0)
    errors = torch.from_numpy(np.array(fitted.resid))
    variance = _rms(errors).square() * (1 + change.square().cumsum(0) - change.square())
    return mean, variance.sqrt().expand_as(mean)


BASELINES: dict[str, Baseline] = {
    "last": last_value,
    "seasonal": seasonal,
    "drift": drift,
    "smoothing": exponential_smoothing,
}


def has_smoothing() -> bool:
    """Return whether statsmodels is installed."""
    try:
        _smoothing()
    except OptionError:
        return False
    return True


def _smoothing() -> Any:
    try:
        from statsmodels.tsa.exponential_smoothing.ets import ETSModel
    except ImportError:
        raise OptionError(
            "exponential smoothing needs statsmodels, which is not installed: pip install 'everloop[forecast]'"
        ) from None
    return ETSModel


def _smoother(values: Any, cycle: int) -> Any:
    season = {"seasonal": "add", "seasonal_periods": cycle} if cycle else {}
    return _smoothing()(values, trend="add", damped_trend=True, initialization_method="heuristic", **season)


def _known(series: Tensor, season: int) -> Tensor:
    """Return a series [N] in which the number of a season before stands for one that is missing; 0 without one."""
    rows = torch.nn.functional.pad(series, (0, -len(series) % season), value=torch.nan).view(-1, 1, season)
    return filled(rows).values.flatten()[: len(series)]


def _rms(errors: Tensor) -> Tensor:
    """Return the root of the mean square of those that are known; NaN if none is."""
    return errors.square().nanmean().sqrt()


def _ahead(horizon: int) -> Tensor:
    return torch.arange(1, horizon + 1, dtype=torch.float64)[:, None]
