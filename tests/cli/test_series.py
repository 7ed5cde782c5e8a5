"""Forecasts of tables with gaps and of tables that hold several series, as a user meets them."""

from __future__ import annotations

import io
import json
import tomllib
from datetime import date, timedelta
from pathlib import Path

import pytest
import torch

from everloop.cli import main
from everloop.data import Series, SeriesConfig
from everloop.models import load

SIZES = {"context": 6, "horizon": 2, "season": 2, "hidden": 4, "steps": 3, "batch": 8, "validate": 3, "threads": 1}
SMALL = [part for name, value in SIZES.items() for part in (f"--{name}", str(value))]
DAYS = [str(date(2024, 1, 1) + timedelta(i)) for i in range(120)]


def write(name: str, cells: list[str]) -> list[str]:
    Path(name).write_text("day,sales\n" + "".join(f"{day},{cell}\n" for day, cell in zip(DAYS, cells, strict=False)))
    return ["train", "forecaster", "--train", name, "--series", "sales", *SMALL, "--out", "run"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def failure(capsys: pytest.CaptureFixture[str], *command: str, status: int = 2) -> str:
    capsys.readouterr()
    assert main(list(command)) == status
    return capsys.readouterr().err


def test_an_empty_cell_is_a_missing_number(capsys: pytest.CaptureFixture[str]) -> None:
    command = write("t.csv", [str(i % 5) if i % 40 else ["", "NA", " nan "][i // 40] for i in range(120)])
    told = failure(capsys, *command, status=0)
    assert "train: 84 steps, 77 windows" in told
    assert "missing: sales 3 of 120 (2.5%); the model is told where" in told
    model = load("run")
    assert model.decay is not None
    assert torch.isfinite(model.mean).all()
    told = failure(capsys, "evaluate", "run", "t.csv", status=0)
    # of windows of two steps all have one that is known; the missing numbers themselves are not counted
    assert "test: 120 steps, 113 windows" in told
    Path("new.csv").write_text("day,sales\n" + "".join(f"{day},\n" for day in DAYS[:9]))
    capsys.readouterr()
    assert main(["predict", "run", "new.csv"]) == 0
    assert "nan" not in capsys.readouterr().out


def test_missing_numbers_of_a_model_that_has_seen_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(write("t.csv", [str(i % 5) for i in range(120)])) == 0
    assert load("run").decay is None
    capsys.readouterr()
    answers = []
    for cells in (["3"] * 8, ["1", "2", "3", "3", "", "NA", "", ""]):
        write("new.csv", cells)
        assert main(["predict", "run", "new.csv"]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]  # the last number is taken again


def test_a_row_that_is_malformed(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [str(i % 5) if i != 40 else "x" for i in range(120)]
    told = failure(capsys, *write("t.csv", cells))
    assert told.startswith("error: t.csv: line 42: sales is 'x'; expected a number")
    assert told.count("\n") == 1
    notes = failure(capsys, *write("t.csv", cells), "--malformed", "skip", status=0)
    assert "train: 83 steps, 69 windows" in notes  # 83 - 6 - 2 + 1 without the gap, 7 fewer with it
    assert "no window reaches across the gaps of 1 malformed line left out" in notes
    timed = failure(capsys, *write("t.csv", cells)[:-1], "timed", "--malformed", "skip", "--time", "day", status=0)
    assert "train: 84 steps, 77 windows" in timed  # the time tells which step is missing
    assert "1 steps of 1 day have no row, the first before 2024-02-11 00:00:00; they are missing" in timed


def test_a_forecast_knows_only_what_follows_the_last_gap(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(write("t.csv", [str(i % 5) for i in range(120)])) == 0
    write("new.csv", [str(i % 5) if i != 20 else "x" for i in range(26)])
    assert "new.csv: line 22: sales is 'x'" in failure(capsys, "predict", "run", "new.csv")
    told = failure(capsys, "predict", "run", "new.csv", "--malformed", "skip")
    assert "error: new.csv has 5 rows since its last gap; a forecast needs 6 before it" in told
    write("new.csv", [str(i % 5) if i != 20 else "x" for i in range(27)])
    failure(capsys, "predict", "run", "new.csv", "--malformed", "skip", status=0)
    assert main(["predict", "run", "new.csv", "--malformed", "skip", "--stride", "1"]) == 0
    # rows 6 to 20, and again from the sixth row after the gap on
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 * (15 + 1)


STORES = {"a": 0, "b": 100}


def long_table(order: str) -> str:
    """Return two stores, sorted by store, by day, or backwards; day 10 of store b is missing, and a cell of store a."""
    rows = [(s, d, i) for s in STORES for i, d in enumerate(DAYS) if (s, i) != ("b", 10)]
    rows = {"store": rows, "day": sorted(rows, key=lambda row: row[2]), "backwards": rows[::-1]}[order]
    cells = (f"{s},{d},{STORES[s] + i % 5 if (s, i) != ('a', 7) else ''}\n" for s, d, i in rows)
    return "store,day,sales\n" + "".join(cells)


@pytest.mark.parametrize("order", ["store", "day", "backwards"])
def test_a_long_table(order: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("long.csv").write_text(long_table(order))
    command = ["train", "forecaster", "--train", "long.csv", "--series", "sales", *SMALL, "--out", "run"]
    command += ["--time", "day", "--group", "store", "--calendar", "weekday"]
    told = failure(capsys, *command, status=0)
    assert "train: 168 steps of 2 series, 154 windows" in told
    assert "series b: 1 steps of 1 day have no row, the first before 2024-01-12 00:00:00; they are missing" in told
    assert ("they were sorted" in told) == (order == "backwards")
    assert "missing: sales 2 of 240 (0.8%)" in told
    capsys.readouterr()
    assert main(["predict", "run", "long.csv"]) == 0
    lines = [line.split(",") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["store", "day", "sales"]
    found = [(row[0], row[1]) for row in lines[1:]]
    assert sorted(found) == [(s, f"2024-{day} 00:00:00") for s in STORES for day in ("04-30", "05-01")]
    if order == "backwards":
        return
    # as they come, the same rows give the same forecasts
    assert main(["predict", "run", "long.csv", "--stride", "30"]) == 0
    whole = sorted(capsys.readouterr().out.splitlines())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(long_table(order).encode())))
    assert main(["predict", "run", "--format", "csv", "--stride", "30"]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == whole
    assert len(whole) == 1 + 2 * 2 * 4


def test_no_window_reaches_from_one_series_into_another() -> None:
    Path("long.csv").write_text(long_table("store"))
    config = SeriesConfig(train=(Path("long.csv"),), series=("sales",), group=("store",), time=("day",))
    data = Series.from_config(config, context=6, horizon=2)
    for split in data.splits:
        for batch in data.epoch(split, 0, batch=7):
            seen = torch.cat([batch.past, batch.future])[..., 0]
            known = seen.nan_to_num(50.0)  # store a is below, store b above
            assert bool(((known <= 50).all(0) | (known >= 50).all(0)).all())


def test_a_group_of_several_columns(capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        long_table("store")
        .replace("store,day", "store,item,day")
        .replace("\na,", "\na,tea,")
        .replace("\nb,", "\nb,jam,")
    )
    Path("long.csv").write_text(text)
    command = ["train", "forecaster", "--train", "long.csv", "--series", "sales", *SMALL, "--out", "run"]
    assert main([*command, "--time", "day", "--group", "store", "item"]) == 0
    capsys.readouterr()
    assert main(["predict", "run", "long.csv"]) == 0
    lines = [line.split(",") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["store", "item", "day", "sales"]
    assert [line[:2] for line in lines[1:]] == [["a", "tea"]] * 2 + [["b", "jam"]] * 2


def test_several_files_are_a_series_each(capsys: pytest.CaptureFixture[str]) -> None:
    for name, start in (("a.csv", 0), ("b.csv", 7)):
        rows = "".join(f"{day.replace('-', ',')},{start + i % 5}\n" for i, day in enumerate(DAYS))
        Path(name).write_text("year,month,day,sales\n" + rows)
    command = ["train", "forecaster", "--train", "a.csv", "b.csv", "--series", "sales", *SMALL, "--out", "run"]
    told = failure(capsys, *command, "--time", "year", "month", "day", "--scaling", "window", status=0)
    assert "train: 168 steps of 2 series" in told
    assert tomllib.loads(Path("run/config.toml").read_text())["data"]["train"][1] == str(Path("b.csv").absolute())
    assert main(["evaluate", "run"]) == 0
    assert main(["train", "forecaster", "--resume", "run", "--steps", "5"]) == 0


def test_a_long_table_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    Path("long.csv").write_text(long_table("store"))
    command = ["train", "forecaster", "--train", "long.csv", "--series", "sales", *SMALL, "--out", "run"]
    assert "with --time, and those that tell several series apart with --group" in failure(capsys, *command)
    told = failure(capsys, *command, "--time", "day")
    assert "line 122: day is 2024-01-01 00:00:00, as in line 2; expected each time once" in told
    assert told.count("\n") == 1
    assert not Path("run/best.safetensors").exists()
    told = failure(capsys, *command[:-1], "whole", "--one-series", status=0)
    assert main(["evaluate", "whole"]) == 0


@pytest.mark.parametrize("value", ["-inf", "inf", "1e39"])
def test_a_number_that_is_not_finite(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = failure(capsys, *write("t.csv", [str(i % 5) if i != 3 else value for i in range(120)]))
    assert told.startswith(f"error: t.csv: line 5: sales is '{value}'; expected a number that is finite")
    assert "lr" not in told
    Path("t.ts").write_text(f"@classLabel true a b\n@data\n1,2:a\n2,{value}:b\n" + "1,2:a\n" * 20)
    told = failure(capsys, "train", "classifier", "--train", "t.ts", "--steps", "2", "--hidden", "4")
    assert f"t.ts: line 4: value 2 of channel 1 is '{value}'; expected a number that is finite" in told


def test_evaluated_on_a_file_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(write("t.csv", [str(i % 5) for i in range(120)])) == 0
    write("new.csv", [str(3 + i % 5) for i in range(30)])
    capsys.readouterr()
    assert main(["evaluate", "run", "new.csv", "--json"]) == 0
    shown = capsys.readouterr()
    assert "test: 30 steps, 23 windows" in shown.err
    figures = json.loads(shown.out)
    assert figures["count"] == 2 * 23
    # the last value is wrong by 1 (or 4), and two steps later by 2 (or 3)
    rows = torch.tensor([3.0 + i % 5 for i in range(30)])
    misses = torch.stack([rows[6 + h : 29 + h] - rows[5:28] for h in range(2)])
    model = load("run")
    assert figures["mae_last"] == pytest.approx(float(misses.abs().mean() / model.scale[0]), rel=1e-5)
    write("few.csv", ["1"] * 7)
    assert "the test split has 7 steps; a window of 6 + 2 needs more" in failure(capsys, "evaluate", "run", "few.csv")
