"""Backtests: scores against loops over single numbers in float64, baselines against their definitions."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from everloop.cli import main
from everloop.data import Series, SeriesConfig
from everloop.draw import Panel, draw_forecasts
from everloop.errors import DataError, OptionError
from everloop.models import Forecaster, ForecasterConfig
from everloop.train import Backtest, backtest, train
from everloop.train.baselines import BASELINES, exponential_smoothing

SPLIT = SeriesConfig(split=(0.5, 0.2, 0.3), series=("a", "b"))
SIZES: Any = {"context": 12, "horizon": 5}


def waves(steps: int = 200, gaps: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(float(steps))[:, None]
    values = torch.tensor([20.0, -3.0]) + 4 * torch.sin(t * torch.tensor([2 * math.pi / 7, 0.4]))
    values = values + torch.randn(steps, 2, generator=generator)
    values[torch.rand(steps, 2, generator=generator) < gaps] = math.nan
    return values


def groups(gaps: float = 0.0) -> Series:
    return Series(waves(200, gaps), config=SPLIT, groups={"north": 110, "south": 90}, **SIZES)


def still(data: Series, **settings: Any) -> Forecaster:
    """Return a forecaster that repeats the last value."""
    model = Forecaster.of(data, ForecasterConfig(hidden=4, season=7, missing="fill", **settings))
    with torch.no_grad():
        for part in model.head.parameters():
            part.zero_()
    return model.eval()


@pytest.mark.parametrize("gaps", [0.0, 0.3])
def test_scores_by_hand(gaps: float) -> None:
    data = groups(gaps)
    found = backtest(still(data), data, stride=3, baselines=["last"])
    assert found.methods == ("model", "last")
    assert found.series == ("north a", "north b", "south a", "south b")
    values = data.values.double().numpy()
    sums: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    origins = 0
    for name, begin, first, end in (("north", 0, 77, 110), ("south", 110, 110 + 63, 200)):
        windows = [s for s in range(first, end - 4) if not np.isnan(values[s : s + 5]).all()]
        starts = [s for s in windows if (s - windows[0]) % 3 == 0]
        origins += len(starts)
        for column in range(2):
            series = values[:, column]
            before = [abs(series[i] - series[i - 7]) for i in range(begin + 7, starts[0])]
            scale = np.mean([one for one in before if not math.isnan(one)])
            for s in starts:
                last = next(y for y in reversed(series[begin:s].tolist()) if not math.isnan(y))
                for h in range(5):
                    y = float(series[s + h])
                    if not math.isnan(y):
                        e = abs(y - last)
                        row = (e, e * e, e / scale, 200 * e / (abs(y) + abs(last)))
                        sums.setdefault((f"{name} {'ab'[column]}", h + 1), []).append(row)
    assert found.origins == origins
    for method in found.methods:
        for series_name, step in [(None, None), ("south b", None), (None, 4), ("north a", 5)]:
            rows = [r for (s, h), some in sums.items() if series_name in (None, s) and step in (None, h) for r in some]
            scores = found.scores(method, series_name, step)
            mae, square, mase, smape = np.mean(rows, 0)
            assert scores.count == len(rows)
            wanted = (mae, math.sqrt(square), mase, smape)
            # the model's own forecasts have 32 bits
            assert (scores.mae, scores.rmse, scores.mase, scores.smape) == pytest.approx(
                wanted, rel=1e-5 if method == "model" else 1e-12
            )
    assert found.scores().crps == found.scores().mae  # of a number alone
    assert found.scores().coverage is None


def test_interval_and_crps() -> None:
    data = groups()
    model = still(data, output="gaussian")
    found = backtest(model, data, baselines=[], coverage=0.9)
    starts = [torch.tensor(one.starts) + begin for one, begin in zip(found.examples[::2], (0, 110), strict=True)]
    made = [model.forecast(data.window(some)) for some in starts]
    points = torch.cat([m.point for m in made], 1).double()
    spreads = torch.cat([m.spread for m in made if m.spread is not None], 1).double()
    came = torch.cat([data.window(some).future for some in starts], 1)
    normal: Any = torch.distributions.Normal(points, spreads)
    inside = (normal.cdf(came.double()) - 0.5).abs() < 0.45
    assert found.scores().coverage == pytest.approx(float(inside.double().mean()))
    levels = torch.arange(0.0005, 1, 0.001, dtype=torch.float64)
    drawn = normal.icdf(levels[:, None, None, None])
    error = came - drawn
    pinball = torch.maximum(levels[:, None, None, None] * error, (levels[:, None, None, None] - 1) * error)
    assert found.scores().crps == pytest.approx(float(2 * pinball.mean()), rel=1e-3)
    three = backtest(still(data, output="quantile", quantiles=(0.1, 0.25, 0.5, 0.75, 0.9)), data, baselines=[])
    assert three.coverage == pytest.approx(0.8)


def test_baselines_by_their_definitions() -> None:
    series = waves(80)[:, 0].double()
    series[[3, 30, 58]] = math.nan
    y, starts, horizon, m = series.tolist(), [40, 59, 70], 9, 7
    known = [v for v in y[:40] if not math.isnan(v)]
    last, drift, seasonal = (BASELINES[name](series, starts, horizon, m) for name in ("last", "drift", "seasonal"))
    steps = [y[i] - y[i - 1] for i in range(1, 40) if not math.isnan(y[i] - y[i - 1])]
    cycles = [y[i] - y[i - m] for i in range(m, 40) if not math.isnan(y[i] - y[i - m])]
    for n, s in enumerate(starts):
        final = next(v for v in reversed(y[:s]) if not math.isnan(v))
        slope = (final - known[0]) / (s - 1)
        for h in range(1, horizon + 1):
            assert float(last[0][h - 1, n]) == final
            assert float(last[1][h - 1, n]) == pytest.approx(np.sqrt(np.mean(np.square(steps)) * h))
            assert float(drift[0][h - 1, n]) == pytest.approx(final + slope * h)
            assert float(drift[1][h - 1, n]) == pytest.approx(np.std(steps) * math.sqrt(h * (1 + h / (s - 1))))
            place = s - m + (h - 1) % m
            while math.isnan(y[place]):
                place -= m
            assert float(seasonal[0][h - 1, n]) == y[place]
            assert float(seasonal[1][h - 1, n]) == pytest.approx(
                np.sqrt(np.mean(np.square(cycles)) * ((h - 1) // m + 1))
            )


@pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")  # of the oldest statsmodels
@pytest.mark.parametrize("season", [7, 1])
def test_exponential_smoothing_is_that_of_statsmodels(season: int) -> None:
    pandas = pytest.importorskip("pandas")
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    series = waves(150)[:, 0].double()
    mean, deviation = exponential_smoothing(series, [120, 131], 16, season)
    named = {"seasonal": "add", "seasonal_periods": season} if season > 1 else {}
    settings: Any = {"trend": "add", "damped_trend": True, "initialization_method": "heuristic", **named}
    fitted = ETSModel(series[:120].numpy(), **settings).fit(disp=False)
    for n, start in enumerate([120, 131]):
        known = ETSModel(pandas.Series(series[:start].numpy()), **settings).smooth(fitted.params)
        torch.testing.assert_close(mean[:, n], torch.tensor(known.forecast(16).to_numpy().copy()), rtol=1e-6, atol=1e-6)
        variance = known.get_prediction(start=start, end=start + 15).forecast_variance / known.mse * fitted.mse
        torch.testing.assert_close(deviation[:, n], torch.tensor(np.array(variance)).sqrt(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", list(BASELINES))
def test_baselines_do_not_look_ahead(name: str) -> None:
    series = waves(150, gaps=0.1)[:, 0].double()
    changed = series.clone()
    changed[121:] = 100.0
    for one, other in zip(*(BASELINES[name](s, [120, 121, 130], 16, 7) for s in (series, changed)), strict=True):
        torch.testing.assert_close(one[:, :2], other[:, :2])
        assert not bool(one.isnan().any())


def rates(**settings: Any) -> Backtest:
    """Return the backtest of a model that has learned next to nothing of a random walk and a wave."""
    generator = torch.Generator().manual_seed(0)
    walk = 100 + torch.randn(600, generator=generator).cumsum(0)
    wave = 20 * torch.sin(torch.arange(600.0) * 2 * math.pi / 10)
    config = SeriesConfig(split=(0.6, 0.1, 0.3), series=("rate", "wave"))
    data = Series(torch.stack([walk, wave], 1), config=config, context=20, horizon=4)
    model = Forecaster.of(data, ForecasterConfig(hidden=8, season=10, around="mean"))
    train(model, data, steps=40, lr=1e-2, batch=32)
    return backtest(model, data, **settings)


def test_where_the_last_value_wins_it_is_said() -> None:
    found = rates(baselines=["last", "seasonal"])
    said = found.verdict()
    assert "The last value is the best on 1 of 2 series: rate." in said
    assert "The last season is the best on 1 of 2 series: wave." in said
    assert all(line in str(found) for line in said)
    alone = rates(baselines=["last"])
    model, last = (alone.scores(method).mae for method in ("model", "last"))
    assert model is not None
    assert last is not None
    wins = "The model is" if model < last else "The last value is better than the model (MAE"
    assert alone.verdict()[0].startswith(wins)


def test_one_series_that_never_changes_hides_no_score() -> None:
    values = waves()
    values[:, 1] = 5
    data = Series(values, config=SPLIT, **SIZES)
    found = backtest(still(data, output="gaussian"), data, baselines=["last", "seasonal"])
    for method in found.methods:
        constant = found.scores(method, "b")
        assert constant.mase is None
        assert constant.crps == pytest.approx(0, abs=1e-3)
        assert found.scores(method).mase == found.scores(method, "a").mase is not None
        own = found.scores(method, "a").crps
        assert own is not None
        assert found.scores(method).crps == pytest.approx((own + (constant.crps or 0)) / 2)
        assert found.scores(method, None, 2).mase == found.scores(method, "a", 2).mase is not None
    assert sum("b has no MASE" in note for note in found.notes) == 1


def test_a_tie_is_no_victory() -> None:
    data = Series(torch.full((200, 1), 5.0), config=SeriesConfig(split=(0.5, 0.2, 0.3), series=("a",)), **SIZES)
    said = backtest(still(data), data, baselines=["last"]).verdict()
    assert said == ["The last value is as good as the model (MAE 0 against 0), and simpler. Take it instead."]


@pytest.mark.parametrize("name", ["stride", "season"])
def test_zero_is_not_taken_for_the_default(name: str) -> None:
    data = groups()
    with pytest.raises(OptionError, match=rf"{name} is 0.*expected at least 1"):
        backtest(still(data), data, **{name: 0})  # type: ignore[arg-type]


def test_wrong_options() -> None:
    data = groups()
    point, quantile = still(data), still(data, output="quantile", quantiles=(0.1, 0.5, 0.9))
    for call, wanted in (
        (lambda: backtest(point, data, stride=-1), "stride is -1"),
        (lambda: backtest(point, data, baselines=["lost"]), "did you mean 'last'"),
        (lambda: backtest(point, data, coverage=0.8), "a number without interval: train it with --output gaussian"),
        (lambda: backtest(quantile, data, coverage=0.9), r"tell intervals of 0\.8"),
        (lambda: backtest(quantile, data, coverage=1.9), "coverage is 1.9; expected a number between 0 and 1"),
        (lambda: backtest(point, data, baselines=[]).scores("best"), "best"),
        (lambda: backtest(point, data, baselines=[]).scores(step=6), "step is 6; expected 1 to 5"),
    ):
        with pytest.raises(OptionError, match=wanted):
            call()
    with pytest.raises(DataError, match="no lost split"):
        backtest(point, data, "lost")


@pytest.mark.parametrize(("start", "season", "fits"), [(4, 7, 0), (9, 2, 0), (10, 7, 1), (15, 7, 1), (16, 7, 1)])
def test_exponential_smoothing_of_few_steps(start: int, season: int, fits: int) -> None:
    pytest.importorskip("statsmodels")
    values = torch.randn(start + 3, 1, generator=torch.Generator().manual_seed(1))
    sizes: Any = {"context": start, "horizon": 2}
    file = Series(values, config=SeriesConfig(series=("a",), split=(0, 0, 1)), **sizes)
    learnt = Series(values, config=SeriesConfig(series=("a",), split=(1, 0, 0)), **sizes)
    found = backtest(still(learnt), file, "test", season=season)
    assert ("smoothing" in found.methods) == fits
    assert any("without exponential smoothing" in note for note in found.notes) != fits


def test_without_statsmodels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "statsmodels.tsa.exponential_smoothing.ets", None)
    data = groups()
    found = backtest(still(data), data)
    assert found.methods == ("model", "last", "seasonal", "drift")
    assert "pip install 'everloop[forecast]'" in found.notes[-1]
    with pytest.raises(OptionError, match="everloop\\[forecast\\]"):
        backtest(still(data), data, baselines=["smoothing"])


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{a:.3f},{b:.3f}\n" for a, b in waves(200).tolist())
    Path("t.csv").write_text("a,b\n" + rows)
    command = ["train", "forecaster", "--train", "t.csv", "--series", "a", "b", "--output", "gaussian", "--out", "run"]
    command += ["--context", "12", "--horizon", "5", "--season", "7", "--hidden", "4", "--steps", "2", "--threads", "1"]
    assert main(command) == 0
    capsys.readouterr()
    assert main(["backtest", "run", "--out", "s.csv", "--figure", "f.svg"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("8 forecasts of 5 steps, one every 5; season 7; inside: of the interval of 80%")
    assert "MAE by series" in told
    with Path("s.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 5 * 3 * 6
    assert [row["method"] for row in table[::18]] == ["model", "last", "seasonal", "drift", "smoothing"]
    assert Path("f.svg").read_text().startswith("<svg")
    assert main(["backtest", "run", "t.csv", "--json", "--baselines", "last", "--stride", "1", "--out", "s.json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["origins"] == 200 - 12 - 5 + 1
    assert shown["scores"]["last"]["mae"] > 0
    assert json.loads(Path("s.json").read_text())["rows"][0]["mae"] == shown["scores"]["model"]["mae"]
    for wrong, wanted in (
        (["--out", "s.txt"], "expected a file that ends in .csv or .json"),
        (["--figure", "s.pdf"], "s.pdf: the ending is '.pdf'; expected one of .svg, .png, .txt"),
        (["lost.csv"], "lost.csv: no such file"),
    ):
        assert main(["backtest", "run", *wrong]) == 2
        assert wanted in capsys.readouterr().err


def test_a_picture_of_forecasts() -> None:
    nan = math.nan
    panel = Panel("north", [1, nan, 3, 2], [2, nan, 4], [2, 2.5, 3], [1, 1, 1], [3, 4, 5])
    made = draw_forecasts([panel, Panel("south", [1.0], [1.0], [1.0])], title="Forecasts", interval="80% interval")
    assert made.svg().count("<polygon") == 2  # the band, and its sign in the legend
    assert "nan" not in made.svg()
    assert str(made).splitlines()[1] == "north"
    with pytest.raises(OptionError, match="no forecast to draw"):
        draw_forecasts([], title="")
    with pytest.raises(OptionError, match="equally many"):
        draw_forecasts([Panel("x", [1.0], [1.0, 2.0], [1.0])], title="")
