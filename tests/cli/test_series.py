"""Forecasts of tables with gaps and of tables that hold several series, as a user meets them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch

from everloop.cli import main
from everloop.models import load

SIZES = {"context": 6, "horizon": 2, "season": 2, "hidden": 4, "steps": 3, "batch": 8, "validate": 3, "threads": 1}
SMALL = [part for name, value in SIZES.items() for part in (f"--{name}", str(value))]
DAYS = [f"2024-{1 + i // 28:02}-{1 + i % 28:02}" for i in range(120)]


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


def test_an_empty_cell(capsys: pytest.CaptureFixture[str]) -> None:
    command = write("t.csv", [str(i % 5) if i != 40 else "" for i in range(120)])
    told = failure(capsys, *command)
    assert told.startswith("error: t.csv: line 42: sales is ''; expected a number")
    assert "fill the gap; or malformed skip breaks the series there" in told
    assert told.count("\n") == 1
    notes = failure(capsys, *command, "--malformed", "skip", status=0)
    assert "train: 83 steps, 69 windows" in notes  # 83 - 6 - 2 + 1 without the gap, 7 fewer with it
    assert "no window reaches across the gaps of 1 malformed line left out" in notes


def test_a_forecast_knows_only_what_follows_the_last_gap(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(write("t.csv", [str(i % 5) for i in range(120)])) == 0
    write("new.csv", [str(i % 5) if i != 20 else "" for i in range(26)])
    assert "new.csv: line 22: sales is ''" in failure(capsys, "predict", "run", "new.csv")
    told = failure(capsys, "predict", "run", "new.csv", "--malformed", "skip")
    assert "error: new.csv has 5 rows since its last gap; a forecast needs 6 before it" in told
    write("new.csv", [str(i % 5) if i != 20 else "" for i in range(27)])
    failure(capsys, "predict", "run", "new.csv", "--malformed", "skip", status=0)
    assert main(["predict", "run", "new.csv", "--malformed", "skip", "--stride", "1"]) == 0
    # rows 6 to 20, and again from the sixth row after the gap on
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 * (15 + 1)


def test_several_stores_in_one_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    long = "store,day,sales\n" + "".join(f"{s},{day},{i % 5}\n" for s in "ab" for i, day in enumerate(DAYS))
    Path("long.csv").write_text(long)
    command = ["train", "forecaster", "--train", "long.csv", "--series", "sales", *SMALL, "--out", "run"]
    for time in ([], ["--time", "day"]):
        told = failure(capsys, *command, *time)
        assert told.startswith("error: long.csv: line 122: day is 2024-01-01 00:00:00, after 2024-05-08 00:00:00")
        assert "give each series a file of its own" in told
        assert told.count("\n") == 1
    assert not Path("run").exists()
    assert main(write("t.csv", [str(i % 5) for i in range(120)])) == 0
    assert "give each series a file of its own" in failure(capsys, "predict", "run", "long.csv")
    assert "give each series a file of its own" in failure(capsys, "evaluate", "run", "long.csv")
    assert main([*command[:-1], "whole", "--one-series"]) == 0
    assert main(["evaluate", "whole"]) == 0
    # a stream has no end at which its other columns could be judged
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(long.encode())))
    assert main(["predict", "run", "--format", "csv"]) == 0


@pytest.mark.parametrize("value", ["nan", "inf", "1e39"])
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
