"""Frames of pandas and polars, arrays and lists as series: read as the same table is, and answered in kind."""

from __future__ import annotations

import math
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from everloop.cli import main
from everloop.data import Series, SeriesConfig
from everloop.errors import DataError, OptionError
from everloop.models import Forecaster, ForecasterConfig, forecast_frame, load
from everloop.train import train

DAYS = [date(2024, 1, 1) + timedelta(i) for i in range(40)]
CONFIG = SeriesConfig(series=("sales",), group=("store",), static=("region",), time=("day",), calendar=("weekday",))
SIZES: Any = {"context": 5, "horizon": 2}


def columns() -> dict[str, list[Any]]:
    """Return two stores, one below the other; a cell and a row of b are missing."""
    stores = [("a", "n", 0), ("b", "s", 100)]
    rows = [(store, region, day, float(base + i % 7)) for store, region, base in stores for i, day in enumerate(DAYS)]
    rows[50] = (*rows[50][:3], math.nan)
    del rows[60]
    names = ("store", "region", "day", "sales")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def as_file(path: Path, cells: dict[str, list[Any]]) -> Path:
    rows = [",".join("" if cell != cell else str(cell) for cell in row) for row in zip(*cells.values(), strict=True)]
    path.write_text("\n".join([",".join(cells), *rows]) + "\n")
    return path


def frames() -> list[Any]:
    cells = columns()
    made: list[Any] = [cells, {**cells, "sales": np.array(cells["sales"]), "day": [str(d) for d in cells["day"]]}]
    try:
        import pandas
    except ImportError:
        return made
    frame = pandas.DataFrame(cells)
    timed = frame.assign(day=pandas.to_datetime(frame["day"]))
    return [*made, frame, timed, timed.iloc[::-1]]


@pytest.mark.parametrize("number", range(5))
def test_a_frame_is_read_as_the_same_file(number: int, tmp_path: Path) -> None:
    if number >= len(frames()):
        pytest.skip("pandas is not installed")
    path = as_file(tmp_path / "t.csv", columns())
    config = SeriesConfig(**{**vars(CONFIG), "train": (path,)})
    wanted, found = Series.from_config(config, **SIZES), Series.from_frame(frames()[number], CONFIG, **SIZES)
    if number < 4:  # the last is backwards, and begins with the other store
        assert found.fingerprint == wanted.fingerprint
        assert found.groups == wanted.groups == {"a": 40, "b": 40}
        assert found.arranged == [line.replace(str(path), "the frame") for line in wanted.arranged]
    else:
        torch.testing.assert_close(found.values[40:], wanted.values[:40])
        assert "not in the order of time" in found.arranged[0]


def trained(path: Path) -> Forecaster:
    data = Series.from_frame(columns(), CONFIG, **SIZES)
    model = Forecaster.of(data, ForecasterConfig(hidden=4, season=2, output="gaussian"))
    train(model, data, steps=2, batch=8, out=path)
    return model.eval()


def test_a_frame_is_answered_with_a_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained(tmp_path / "run")
    found = forecast_frame(model, columns(), CONFIG)
    assert [*found] == ["store", "day", "sales", "sales_deviation"]
    assert found["store"] == ["a", "a", "b", "b"]
    assert found["day"][:2] == [datetime(2024, 2, 10), datetime(2024, 2, 11)]
    assert forecast_frame(tmp_path / "run", columns()) == found
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(as_file(tmp_path / "t.csv", columns()))]) == 0
    lines = [line.split(",") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == [*found]
    for i, line in enumerate(lines[1:]):
        assert line[:2] == [found["store"][i], str(found["day"][i])]
        assert [float(cell) for cell in line[2:]] == pytest.approx([found[n][i] for n in lines[0][2:]], rel=1e-5)
    pandas = pytest.importorskip("pandas")
    answer = forecast_frame(tmp_path / "run", pandas.DataFrame(columns()))
    assert isinstance(answer, pandas.DataFrame)
    assert answer["sales"].tolist() == found["sales"]


class Polars:
    """What is used of a frame of polars: named columns, each with `to_list`, and a frame made from a dict of lists."""

    def __init__(self, cells: dict[str, list[Any]]) -> None:
        self.cells, self.columns = cells, [*cells]

    def __getitem__(self, name: str) -> Any:
        class Column:
            to_list = staticmethod(lambda: self.cells[name])

        return Column


def test_a_frame_of_polars(tmp_path: Path) -> None:
    model = trained(tmp_path / "run")
    try:
        import polars  # type: ignore[import-not-found, unused-ignore]

        made: Any = polars.DataFrame
    except ImportError:
        made = Polars
    answer = forecast_frame(model, made(columns()), CONFIG)
    assert isinstance(answer, made)
    assert answer["sales"].to_list() == forecast_frame(model, columns(), CONFIG)["sales"]


def test_plans_from_a_frame(tmp_path: Path) -> None:
    cells = {**columns(), "price": [float(i % 3) for i in range(79)]}
    config = SeriesConfig(series=("sales",), group=("store",), time=("day",), planned=("price",))
    data = Series.from_frame(cells, config, **SIZES)
    model = Forecaster.of(data, ForecasterConfig(hidden=4, season=2)).eval()
    ahead: dict[str, list[Any]] = {
        "store": ["a", "a", "b", "b"],
        "day": ["2024-02-10", "2024-02-11"] * 2,
        "price": [1.0, 2.0, 0.0, 1.0],
    }
    found = forecast_frame(model, cells, config, plans=ahead)
    other = forecast_frame(model, cells, config, plans={**ahead, "price": [2.0] * 4})
    assert found["sales"] != other["sales"]
    with pytest.raises(OptionError, match="plans is None; this model needs a frame with price"):
        forecast_frame(model, cells, config)
    with pytest.raises(DataError, match="the frame of plans has no row of series b"):
        forecast_frame(model, cells, config, plans={name: column[:2] for name, column in ahead.items()})


def test_what_a_frame_lacks(tmp_path: Path) -> None:
    cells = columns()
    wrong: list[tuple[Any, str]] = [
        ({**cells, "sales": ["x", *cells["sales"][1:]]}, "the frame: row 1: sales is 'x'; expected a number"),
        ({**cells, "day": [None, *cells["day"][1:]]}, "the frame: row 1: day is None; expected a time"),
        ({"store": cells["store"]}, "the frame: unknown column 'sales'; known: store"),
        ({**cells, "sales": [1.0]}, "the frame: columns have store 79"),
        ([1, 2], "the frame is a list; expected a frame of pandas or polars"),
        ({name: column[:4] for name, column in cells.items()}, "the frame has 4 rows of series a; a forecast needs 5"),
    ]
    model = trained(tmp_path / "run")
    for frame, wanted in wrong:
        with pytest.raises(DataError, match=wanted):
            forecast_frame(model, frame, CONFIG)
    with pytest.raises(OptionError, match=r"config is None; expected .* data\.config"):
        forecast_frame(load(tmp_path / "run"), cells)


NUMBERS = [
    (Decimal("2.5"), 2.5),
    (Decimal("NaN"), None),
    (np.float32(2.5), 2.5),
    (np.int64(3), 3.0),
    (Fraction(1, 4), 0.25),
    (None, None),
    (math.nan, None),
    ("NA", None),
]


@pytest.mark.parametrize(("cell", "number"), NUMBERS)
@pytest.mark.parametrize("rows", [20, 9_000])
def test_numbers_of_other_types(cell: Any, number: float | None, rows: int) -> None:
    config = SeriesConfig(series=("a",))
    found = Series.from_frame({"a": [1.0] * rows + [cell] + [2.0] * 9}, config, context=3, horizon=1).values[:, 0]
    assert found[rows].isnan() if number is None else found[rows] == number
    assert found[rows + 1 :].tolist() == [2.0] * 9


def test_the_missing_value_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": pandas.array([1, 2, None, *range(20)], dtype="Int64")})
    found = Series.from_frame(frame, SeriesConfig(series=("a",)), context=3, horizon=1).values[:, 0]
    assert found.isnan().tolist() == [i == 2 for i in range(23)]


@pytest.mark.parametrize(
    "cell", [10**400, -(10**400), Decimal("1e400"), Decimal("Infinity"), Decimal("sNaN"), math.inf, "1e400", True, 1e39]
)
@pytest.mark.parametrize("rows", [2, 9_000])
def test_numbers_that_are_none(cell: Any, rows: int) -> None:
    cells, config = {"a": [1.0] * rows + [cell] + [2.0] * 20}, SeriesConfig(series=("a",))
    with pytest.raises(DataError, match=rf"the frame: row {rows + 1}: a is .*; expected a number that is finite"):
        Series.from_frame(cells, config, context=3, horizon=1)
    found = Series.from_frame(cells, SeriesConfig(series=("a",), malformed="skip"), context=3, horizon=1)
    assert found.breaks == (rows,)
    assert found.errors.skipped == 1


def test_columns_of_one_name_are_refused() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([[1.0, 2.0]] * 20, columns=["a", "a"])
    with pytest.raises(DataError, match="the frame: several columns are called 'a'; expected each name once"):
        Series.from_frame(frame, SeriesConfig(series=("a",)), context=3, horizon=1)
