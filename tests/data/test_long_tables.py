"""A long table of several series is not one series: it is refused, with what to do."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest

from everloop.data import Series, SeriesConfig
from everloop.errors import DataError

STORES, DAYS = ["north", "south", "west"], [f"2024-01-{day:02}" for day in range(1, 13)]
WAYS = {"iso": "{0}-{1}-{2}", "american": "{1}/{2}/{0}", "german": "{2}.{1}.{0}"}


def rows(stores: list[str], *, by_day: bool = False, way: str = "iso") -> list[str]:
    """Return rows store,date,sales, in the order of the stores, or of the days."""
    pairs = [(s, d) for d, s in product(DAYS, stores)] if by_day else list(product(stores, DAYS))
    return [f"{s},{WAYS[way].format(*d.split('-'))},{i % 5}" for i, (s, d) in enumerate(pairs)]


def read(
    path: Path, content: list[str], *, header: str = "store,date,sales", time: str = "", one: bool = False
) -> Series:
    path.write_text("\n".join([header, *content]) + "\n")
    config = SeriesConfig(train=(path,), series=("sales",), time=(time,) if time else (), one_series=one)
    return Series.from_config(config, context=3, horizon=1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("by_day", [True, False])
@pytest.mark.parametrize("stores", [STORES, ["1", "2", "3"]])
def test_a_long_table_is_refused(stores: list[str], by_day: bool, way: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as told:
        read(tmp_path / "t.csv", rows(stores, by_day=by_day, way=way))
    message = str(told.value)
    assert "\n" not in message
    assert message.startswith(f"{tmp_path / 't.csv'}: line {3 if by_day else 14}: date is ")
    assert "name the column of the time with --time, and those that tell several series apart with --group" in message
    assert "--one-series" in message


@pytest.mark.parametrize("by_day", [True, False])
def test_the_column_of_the_time(by_day: bool, tmp_path: Path) -> None:
    came = f"line {3 if by_day else 14}: date is 2024-01-01 00:00:00, as in line 2; expected each time once"
    with pytest.raises(
        DataError, match=rf"t\.csv: {came}: name the columns that tell several series apart with --group"
    ):
        read(tmp_path / "t.csv", rows(STORES, by_day=by_day), time="date")


def test_a_table_with_the_newest_row_first(tmp_path: Path) -> None:
    backwards = rows(["north"])[::-1]
    with pytest.raises(DataError, match=r"line 3: date is 2024-01-11 .*, after 2024-01-12 .* in the row before"):
        read(tmp_path / "t.csv", backwards)
    data = read(tmp_path / "t.csv", backwards, time="date")
    assert data.values[:, 0].tolist() == [i % 5 for i in range(12)]
    assert "the rows are not in the order of time (line 3); they were sorted" in "\n".join(data.notes(2))


def test_times_with_and_without_a_zone(tmp_path: Path) -> None:
    content = ["a,2024-01-01 00:00,1", "a,2024-01-01 01:00+00:00,2"]
    with pytest.raises(
        DataError, match=r"line 3: 2024-01-01 01:00:00\+00:00 has a time zone, unlike 2024-01-01 00:00:00 above it"
    ):
        read(tmp_path / "t.csv", content, time="date")


@pytest.mark.parametrize("by_day", [True, False])
def test_a_long_table_without_dates(by_day: bool, tmp_path: Path) -> None:
    content = [row.replace(",", ",x", 1).split(",") for row in rows(STORES, by_day=by_day)]
    with pytest.raises(DataError, match=r"store has 3 different values in \d+ rows; expected the rows of one"):
        read(tmp_path / "t.csv", [f"{store},{sales}" for store, _, sales in content], header="store,sales")
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"store": s, "sales": float(v)}) + "\n" for s, _, v in content))
    with pytest.raises(DataError, match=r"t\.jsonl: line \d+: store has 3 different values"):
        Series.from_config(SeriesConfig(train=(path,), series=("sales",)), context=3, horizon=1)


WEATHER = ["sun", "sun", "rain", "sun", "rain", "rain", "sun", "wind", "rain", "sun", "sun", "wind"]
WEEK = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


@pytest.mark.parametrize(
    ("header", "content"),
    [
        ("store,date,sales", rows(["north"])),
        ("store,date,sales", rows(["north"], way="american")),
        ("day,date,sales", [f"{WEEK[i % 7]}," + row.split(",", 1)[1] for i, row in enumerate(rows(["x"]))]),
        (
            "day,date,sales",
            [f"{WEEK[i // 4]}," + row.split(",", 1)[1] for i, row in enumerate(rows(["x"], way="german"))],
        ),
        ("weather,sales", [f"{w},{i}" for i, w in enumerate(WEATHER)]),
        ("store,sales", [f"{i // 4},{i}" for i in range(12)]),
        ("unit,sales", [f"kWh,{i}" for i in range(12)]),
        ("name,part,sales", [f"step {i},{'ab'[i // 6]},{i}" for i in range(12)]),
        ("updated,date,sales", [f"2025-01-01,{row.split(',', 1)[1]}" for row in rows(["x"])]),
    ],
)
def test_one_series_is_read(header: str, content: list[str], tmp_path: Path) -> None:
    assert len(read(tmp_path / "t.csv", content, header=header).values) == 12


def test_a_user_who_knows_better(tmp_path: Path) -> None:
    """A date and, as a number beside it, the hour: nothing but the user tells the hour from a store."""
    hourly = [f"{i % 6},2024-01-{1 + i // 6:02},{i}" for i in range(24)]
    for time, came in (("date", "as in line 2"), ("", "the same as in the row before")):
        with pytest.raises(DataError, match=rf"line 3: date is .* {came}.*--one-series"):
            read(tmp_path / "t.csv", hourly, header="hour,date,sales", time=time)
        assert len(read(tmp_path / "t.csv", hourly, header="hour,date,sales", time=time, one=True).values) == 24
