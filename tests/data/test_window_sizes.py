"""Sizes of windows that fit the data, where the user says nothing."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
import torch

from everloop.cli import main
from everloop.data import Series, SeriesConfig
from everloop.data.datasets.window_sizes import WindowSizes, season_of
from everloop.data.spacing import Spacing
from everloop.errors import OptionError
from everloop.models import Forecaster, ForecasterConfig, load

SPLIT = (0.7, 0.1, 0.2)


@pytest.mark.parametrize(
    ("step", "season"),
    [
        (Spacing(seconds=3600), 24),
        (Spacing(seconds=1800), 48),
        (Spacing(seconds=86400), 7),
        (Spacing(seconds=7 * 86400), 52),
        (Spacing(months=1), 12),
        (Spacing(months=3), 4),
        (Spacing(months=12), 1),
        (Spacing(months=5), 1),
        (Spacing(seconds=7000), 1),
        (None, 24),
    ],
)
def test_season(step: Spacing | None, season: int) -> None:
    assert season_of(step) == season


HOURS = [datetime(2024, 1, 1) + timedelta(hours=i) for i in range(100)]
YEARS = [datetime(1900 + i, 1, 1) for i in range(60)]


@pytest.mark.parametrize(
    ("counts", "times", "given", "wanted"),
    [
        ([10_000], HOURS, WindowSizes(), (96, 24, 24)),
        ([10_000], [], WindowSizes(), (96, 24, 24)),
        ([10_000], HOURS, WindowSizes(horizon=48), (96, 48, 24)),
        ([10_000], HOURS, WindowSizes(context=500, season=7), (500, 7, 7)),
        ([200], HOURS, WindowSizes(), (65, 10, 24)),  # half of the 20 that validation has, half of 140 - 10
        ([10_000, 200], HOURS, WindowSizes(), (65, 10, 24)),
        ([60], YEARS, WindowSizes(), (19, 3, 1)),
        ([3], [], WindowSizes(), (1, 1, 24)),
    ],
)
def test_sizes(counts: list[int], times: list[datetime], given: WindowSizes, wanted: tuple[int, int, int]) -> None:
    found, said = given.fitted(counts, times, SPLIT)
    assert (found.context, found.horizon, found.season) == wanted
    for name, size in vars(given).items():
        assert (f"{name} {getattr(found, name)}" in said) == (f"--{name}" in said) == (size == 0)


def test_patches_fit_into_the_context() -> None:
    assert WindowSizes().fitted([200], HOURS, SPLIT, patch=8)[0].context == 64
    assert WindowSizes().fitted([20], HOURS, SPLIT, patch=8)[0].context == 8


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{date(2024, 1, 1) + timedelta(i)},{i % 7},{i % 3}\n" for i in range(150))
    Path("t.csv").write_text("day,sales,price\n" + rows)
    command = ["train", "forecaster", "--train", "t.csv", "--time", "day", "--steps", "2", "--hidden", "4"]
    assert main(command) == 2
    assert "say what to forecast with --series COLUMN…; columns of numbers: sales, price" in capsys.readouterr().err
    assert main([*command, "--series", "sales", "--out", "run"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "context 28, horizon 7, season 7: as fits 105 steps of 1 day in training (or say --context" in told
    assert "context = 28\n" in Path("run/config.toml").read_text()
    assert main(["evaluate", "run"]) == 0
    assert "mse_seasonal" in capsys.readouterr().out


def test_of_a_model_alone() -> None:
    model = Forecaster(["s"])
    assert (model.config.context, model.config.horizon, model.config.season) == (96, 24, 24)
    days = {
        "day": [str(date(2024, 1, 1) + timedelta(i)) for i in range(150)],
        "sales": [float(i % 7) for i in range(150)],
    }
    data = Series.from_frame(days, SeriesConfig(series=("sales",), time=("day",)))
    made = Forecaster.of(data, ForecasterConfig(hidden=4))
    assert (made.config.context, made.config.horizon, made.config.season) == (28, 7, 7)


def test_nothing_given_is_nought_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("a\n" + "1\n2\n" * 90)
    command = [
        "train",
        "forecaster",
        "--train",
        str(tmp_path / "t.csv"),
        "--steps",
        "1",
        "--hidden",
        "2",
        "--batch",
        "4",
    ]
    chosen = []
    for name, sizes in (("without", []), ("noughts", ["--context", "0", "--horizon", "0", "--season", "0"])):
        assert main([*command, *sizes, "--out", str(tmp_path / name)]) == 0
        assert "as fits 126 steps" in capsys.readouterr().err
        config = load(tmp_path / name).config
        chosen.append((config.context, config.horizon, config.season))
    assert chosen[0] == chosen[1]
    assert min(chosen[0]) > 0


@pytest.mark.parametrize(("context", "horizon"), [(0, 2), (3, 0), (-1, 2), (3, -2)])
def test_a_window_of_nothing(context: int, horizon: int) -> None:
    with pytest.raises(OptionError, match=f"context is {context} and horizon is {horizon}; expected at least 1"):
        Series(torch.arange(30.0)[:, None], context=context, horizon=horizon)
