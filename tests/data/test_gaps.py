"""Rows that are missing break a series in two: no window reaches across, and nothing is made up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from everloop.data import Examples, ExamplesConfig, Series, SeriesConfig
from everloop.data.datasets.plans import Plans
from everloop.data.datasets.series_config import columns_of
from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.tables import MISSING
from everloop.errors import DataError, OptionError


def table(path: Path, missing: set[int], count: int = 40, cell: str = "x") -> Path:
    """Write a row a day whose value is its number; some are malformed."""
    rows = [f"{cell if i in missing else i}\n" for i in range(count)]
    path.write_text("a\n" + "".join(rows))
    return path


def read(path: Path, malformed: str = "skip", context: int = 4, horizon: int = 3) -> Series:
    config = SeriesConfig(train=(path,), series=("a",), split=(0.6, 0.2, 0.2), malformed=malformed)  # type: ignore[arg-type]
    return Series.from_config(config, context=context, horizon=horizon)


@pytest.mark.parametrize("missing", [{9}, {0}, {39}, {9, 10, 11}, {5, 20, 30}, {24}, {3, 9}])
def test_every_window_is_of_rows_that_follow_each_other(missing: set[int], tmp_path: Path) -> None:
    data = read(table(tmp_path / "t.csv", missing))
    kept = [i for i in range(40) if i not in missing]
    assert data.values[:, 0].tolist() == kept
    for part in data.splits:
        ((begin, end),) = data.bounds[part]
        found = []
        for batch in data.epoch(part, 0, batch=3):
            windows = torch.cat([batch.past, batch.future])[..., 0].T
            assert bool((windows.diff(dim=1) == 1).all())  # the value is the number of the row
            found += windows[:, 0].int().tolist()
        whole = [kept[s - 4 : s + 3] for s in range(max(begin, 4), end - 2)]
        assert sorted(found) == [rows[0] for rows in whole if rows == list(range(rows[0], rows[0] + 7))]


def test_what_is_told(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", {9, 20})
    with pytest.raises(DataError) as told:
        read(path, "stop")
    message = str(told.value)
    assert message.startswith(f"{path}: line 11: a is 'x'; expected a number that is finite")
    assert message.endswith("(mend it; or malformed skip leaves the row out, whose step is then missing)")
    note = read(path).notes(3)[-1]
    assert note.startswith("no window reaches across the gaps of 2 malformed lines left out; the first: ")
    with pytest.raises(DataError, match=r"23 steps and 2 gaps; a window of 20 \+ 3 needs more in one piece"):
        read(path, context=20)


def test_the_same_numbers_with_a_gap_are_other_data(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("a\n" + "1\n2\n" * 20)
    (tmp_path / "two.csv").write_text("a\n" + "1\n2\n" * 10 + "x\n" + "1\n2\n" * 10)
    prints = {read(tmp_path / name).fingerprint for name in ("one.csv", "two.csv")}
    assert len(prints) == 2


def test_plans_without_times_have_no_gaps(tmp_path: Path) -> None:
    path = table(tmp_path / "p.csv", {2})
    with pytest.raises(
        DataError, match=r"p\.csv: rows are missing before its row 3, and no time tells which; fill them in"
    ):
        Plans(path, SeriesConfig(planned=("a",)), ErrorPolicy("skip"))


@pytest.mark.parametrize("value", ["x", "inf", "-inf", "1e39", "-1e300"])
@pytest.mark.parametrize("column", ["a", "b"])
def test_a_number_that_is_not_finite_is_told_where_it_is_read(value: str, column: str, tmp_path: Path) -> None:
    row = f"{value},1" if column == "a" else f"1,{value}"
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n" * 20 + row + "\n" + "1,2\n" * 20)
    config = SeriesConfig(train=(tmp_path / "t.csv",), series=("a",), covariates=("b",))
    with pytest.raises(DataError, match=rf"t\.csv: line 22: {column} is '{value}'; expected a number that is finite"):
        Series.from_config(config, context=4, horizon=2)


@pytest.mark.parametrize("name", ["values", "extra", "planned"])
@pytest.mark.parametrize("value", [float("-inf"), float("inf"), 1e39])
def test_numbers_from_python(name: str, value: float) -> None:
    parts: dict[str, Any] = {part: torch.zeros(30, 2, dtype=torch.float64) for part in ("values", "extra", "planned")}
    parts[name][17, 1] = value
    with pytest.raises(DataError, match=rf"{name}: row 17, column 1 is -?inf; expected finite numbers"):
        Series(**parts, context=4, horizon=2)


def test_the_page_lists_what_stands_for_a_missing_number() -> None:
    page = (Path(__file__).parents[2] / "docs" / "forecaster.md").read_text()
    listed = re.search(r"\*\*Missing numbers\*\* \(an empty cell(.*?)\)", page, re.DOTALL)
    assert listed
    assert {"", *(word.casefold() for word in re.findall(r"`(.*?)`", listed[1]))} == MISSING


def test_a_table_of_malformed_rows_alone_says_what_is_wrong_with_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.csv has no row.*; 40 malformed lines left out; the first: .*line 2: a is"):
        read(table(tmp_path / "t.csv", {*range(40)}))
    config = ExamplesConfig(
        train=table(tmp_path / "t.csv", {*range(40)}, cell="x,y"), text="a", label="a", malformed="skip"
    )
    with pytest.raises(DataError, match=r"t\.csv has no row.*; 40 malformed lines left out; the first: .*2 fields"):
        Examples.from_config(config)


@pytest.mark.parametrize("first", ["", "NA"])
def test_a_column_whose_first_numbers_are_missing_is_a_column_of_numbers(tmp_path: Path, first: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("day,y,z,w\n" + "".join(f"d{i},{first if i < 30 else i},{i % 3},\n" for i in range(60)))
    with pytest.raises(OptionError, match="columns of numbers: y, z"):
        Series.from_config(SeriesConfig(train=(path,)), context=4, horizon=2)
    path.write_text("day,y\n" + "".join(f"d{i},{first if i < 30 else i}\n" for i in range(60)))
    assert Series.from_config(SeriesConfig(train=(path,)), context=4, horizon=2).names == ("y",)


def test_a_table_that_is_no_text_says_so_where_no_series_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("day,y\n1,2\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"t\.csv is UTF-16, not UTF-8; convert it"):
        Series.from_config(SeriesConfig(train=(path,)), context=4, horizon=2)


@pytest.mark.parametrize(
    "named",
    [
        {"series": ("y", "y")},
        {"series": ("y",), "planned": ("y",)},
        {"series": ("y",), "covariates": ("y",)},
        {"series": ("y",), "time": ("y",)},
        {"series": ("y",), "time": ("d",), "group": ("d",)},
        {"series": ("y",), "static": ("y",)},
    ],
)
def test_a_column_is_one_thing(tmp_path: Path, named: Any) -> None:
    path = tmp_path / "t.csv"
    path.write_text("d,y\n" + "".join(f"{2000 + i},{i}\n" for i in range(60)))
    with pytest.raises(OptionError, match=r"column [dy] is named twice; expected each once"):
        Series.from_config(SeriesConfig(train=(path,), **named), context=4, horizon=2)
    both = SeriesConfig(train=(path,), series=("y",), group=("d",), static=("d",))
    assert columns_of(both) == ("y",)


def test_a_file_that_is_given_twice_is_no_second_series(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", set())
    with pytest.raises(DataError, match=r"t\.csv is given twice"):
        Series.from_config(SeriesConfig(train=(path, path), series=("a",)), context=4, horizon=2)
