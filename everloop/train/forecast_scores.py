"""The scores of forecasts made one after another, of a model and of baselines, as tables and in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from everloop.errors import OptionError, unknown

MODEL = "model"
SUMS = ("absolute", "square", "scaled", "symmetric", "crps", "inside")
SHOWN = 12  # series, and steps, in a table
FIGURES = {"mae": "MAE", "rmse": "RMSE", "mase": "MASE", "smape": "sMAPE", "crps": "CRPS", "coverage": "inside"}
CALLED = {
    "last": "the last value",
    "seasonal": "the last season",
    "drift": "the line through first and last value",
    "smoothing": "exponential smoothing",
}


@dataclass(frozen=True)
class Scores:
    """How good forecasts are, over `count` numbers.

    mae, rmse, crps: in the unit of the series (`Forecast.crps`); a number without a distribution has its absolute error
    as CRPS. mase: absolute errors over the mean absolute error of the seasonal naive forecast before the first origin
    (Hyndman and Koehler, "Another look at measures of forecast accuracy", 2006), of the series in which that is not 0.
    smape: the mean of 200 |y - f| / (|y| + |f|), in percent, 0 where both are 0 (Makridakis, Spiliotis and
    Assimakopoulos, "The M4 competition", 2020). coverage: how many lie in the interval. None where it is not known.
    """

    mae: float | None
    rmse: float | None
    mase: float | None
    smape: float | None
    crps: float | None
    coverage: float | None
    count: int


@dataclass(frozen=True)
class Example:
    """The forecasts of a model for one series, from `starts` on [H, n]; without interval low and high are None."""

    series: str
    values: Tensor
    starts: tuple[int, ...]
    point: Tensor
    low: Tensor | None
    high: Tensor | None


@dataclass(frozen=True)
class Backtest:
    """The scores of a model and of baselines, by series and step.

    Args:
        methods: "model", and the baselines.
        series: their names.
        origins: how many forecasts were made, each of `horizon` steps.
        stride: the steps from one origin to the next.
        coverage: the probability of the interval, None if the model tells none.
        season: of the seasonal baseline and MASE.
        sums: of each figure [M, S, H]: NaN where it is not known.
        counts: of the numbers that were known [S, H].
        notes: what was left out.
        examples: of each series the steps that forecasts begin with, and the model's forecasts.
    """

    methods: tuple[str, ...]
    series: tuple[str, ...]
    origins: int
    horizon: int
    stride: int
    coverage: float | None
    season: int
    sums: dict[str, Tensor]
    counts: Tensor
    notes: tuple[str, ...]
    examples: tuple[Example, ...]

    def scores(self, method: str = MODEL, series: str | None = None, step: int | None = None) -> Scores:
        """Return the scores of a method; of one series if it is named, of one step to come (from 1 on) if it is given.

        Raises:
            OptionError: there is no such method, series or step.
        """
        for name, given, known in (("method", method, self.methods), ("series", series, self.series)):
            if given is not None and given not in known:
                raise OptionError(unknown(name, given, known))
        if step is not None and not 1 <= step <= self.horizon:
            raise OptionError(f"step is {step}; expected 1 to {self.horizon}, the horizon")
        s = slice(None) if series is None else slice(self.series.index(series), self.series.index(series) + 1)
        h = slice(None) if step is None else slice(step - 1, step)
        counts = self.counts[s, h]
        measured = ~self.sums["scaled"][self.methods.index(MODEL), s, h].isnan()  # the others repeat themselves
        of = {n: measured if n == "scaled" else slice(None) for n in self.sums}
        own = {n: t[self.methods.index(method), s, h] for n, t in self.sums.items()}
        means = {n: _mean(t[of[n]], int(counts[of[n]].sum())) for n, t in own.items()}
        square = means["square"]
        rmse = None if square is None else math.sqrt(square)
        mae, mase, smape = means["absolute"], means["scaled"], means["symmetric"]
        return Scores(mae, rmse, mase, smape, means["crps"], means["inside"], int(counts.sum()))

    def rows(self) -> list[dict[str, Any]]:
        """Return all scores as rows: in all, by series, by step, and by both; "" where all are meant."""
        series: tuple[str | None, ...] = (None, *self.series) if len(self.series) > 1 else (None,)
        places = [(s, h) for s in series for h in (None, *range(1, self.horizon + 1))]
        return [
            {"method": method, "series": s or "", "step": h or "", **asdict(self.scores(method, s, h))}
            for method in self.methods
            for s, h in places
        ]

    def verdict(self) -> list[str]:
        """Return in sentences whether the model is worth it, by mean absolute error."""
        return list(_verdict(self))

    def __str__(self) -> str:
        every = f"{self.origins:,} forecasts of {self.horizon} steps, one every {self.stride}; season {self.season}"
        inside = [] if self.coverage is None else [f"inside: of the interval of {self.coverage:.0%}"]
        rows = [(m, *(_figure(getattr(self.scores(m), name)) for name in FIGURES)) for m in self.methods]
        tables = [["; ".join([every, *inside]), "", *_table(("", *FIGURES.values()), rows)]]
        if len(self.series) > 1:
            rows = [(s, *(_figure(self.scores(m, s).mae) for m in self.methods)) for s in self.series[:SHOWN]]
            more = len(self.series) - SHOWN
            tables.append(
                [*_table(("MAE by series", *self.methods), rows), *([f"and {more:,} more"] if more > 0 else [])]
            )
        if self.horizon > 1:
            steps = sorted({round(1 + k * (self.horizon - 1) / (SHOWN - 1)) for k in range(SHOWN)})
            rows = [(f"{h}", *(_figure(self.scores(m, None, h).mae) for m in self.methods)) for h in steps]
            tables.append(_table(("MAE by step", *self.methods), rows))
        return "\n\n".join("\n".join(lines) for lines in [*tables, [*self.notes, *self.verdict()]])


def _verdict(found: Backtest) -> Iterator[str]:
    errors = {m: found.scores(m).mae for m in found.methods}
    known = {m: error for m, error in errors.items() if error is not None}
    own, rivals = known.pop(MODEL, None), known
    if own is None or not rivals:
        return
    best = min(rivals, key=rivals.__getitem__)
    compared = f"MAE {own:.4g} against {rivals[best]:.4g}"
    if own < rivals[best]:
        yield f"The model is {1 - own / rivals[best]:.1%} below {CALLED[best]}, the best of the baselines: {compared}."
    elif own == rivals[best]:
        yield f"{CALLED[best].capitalize()} is as good as the model ({compared}), and simpler. Take it instead."
    else:
        hint = ": what comes next may be a random walk, as in prices and exchange rates" if best == "last" else ""
        yield f"{CALLED[best].capitalize()} is better than the model ({compared}){hint}. Take it instead."
    if len(found.series) > 1:
        winners = {s: min(found.methods, key=lambda m: _error(found, m, s, None)) for s in found.series}
        for method in rivals:
            won = [s for s, winner in winners.items() if winner == method]
            if won:
                more = f" and {len(won) - SHOWN:,} more" if len(won) > SHOWN else ""
                of = f"{len(won)} of {len(found.series)} series"
                yield f"{CALLED[method].capitalize()} is the best on {of}: {', '.join(won[:SHOWN])}{more}."
    steps = [h for h in range(1, found.horizon + 1) if _error(found, best, None, h) < _error(found, MODEL, None, h)]
    if steps and len(steps) < found.horizon:
        yield f"{CALLED[best].capitalize()} is better than the model {_spans(steps)} ahead, of {found.horizon} steps."


def _error(found: Backtest, method: str, series: str | None, step: int | None) -> float:
    error = found.scores(method, series, step).mae
    return math.inf if error is None else error


def _spans(steps: Sequence[int]) -> str:
    """Return rising numbers as spans: 1-3, 7."""
    found: list[list[int]] = []
    for step in steps:
        if found and step == found[-1][1] + 1:
            found[-1][1] = step
        else:
            found.append([step, step])
    return ("steps " if len(steps) > 1 else "step ") + ", ".join(f"{a}" if a == b else f"{a}–{b}" for a, b in found)


def _mean(sums: Tensor, count: int) -> float | None:
    total = float(sums.sum())
    return None if not count or math.isnan(total) else total / count


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return aligned lines: names to the left, figures to the right."""
    every = [head, *rows]
    wide = [max(len(row[k]) for row in every) for k in range(len(head))]
    return [
        "  ".join([f"{row[0]:<{wide[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], wide[1:], strict=True))])
        for row in every
    ]
