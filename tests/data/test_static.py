"""What does not change within a series: read by name, given to the model, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from everloop.cli import main
from everloop.data import Series, SeriesConfig
from everloop.errors import DataError
from everloop.models import Forecaster, ForecasterConfig, load
from everloop.train import train

CONFIG: Any = {"series": ("sales",), "group": ("store",), "static": ("region", "size"), "time": ("day",)}
STORES = {"a": ("north", "large"), "b": ("south", "small"), "c": ("north", "small")}


def table(path: Path, stores: dict[str, tuple[str, str]], days: int = 28) -> Path:
    rows = [
        f"{store},{region},{size},2024-01-{day:02},{100 * 'abc'.index(store) + day}"
        for day in range(1, days + 1)
        for store, (region, size) in stores.items()
    ]
    path.write_text("\n".join(["store,region,size,day,sales", *rows]) + "\n")
    return path


def test_each_window_has_the_words_of_its_series(tmp_path: Path) -> None:
    config = SeriesConfig(train=(table(tmp_path / "t.csv", STORES),), **CONFIG)
    data = Series.from_config(config, context=4, horizon=2)
    assert data.categories == {"region": ("north", "south"), "size": ("large", "small")}
    wanted = {0: [1, 0, 1, 0], 1: [0, 1, 0, 1], 2: [1, 0, 0, 1]}
    for split in data.splits:
        for batch in data.epoch(split, 0, batch=7):
            stores = (batch.future[0, :, 0] // 100).long().tolist()
            assert batch.static.tolist() == [wanted[store] for store in stores]
    assert data.collate([data["train"][0], data["train"][30]]).static.shape == (2, 4)
    other = Series.from_config(config, context=4, horizon=2, categories={"region": ("west",), "size": ("small",)})
    assert other.marked.tolist() == [[0, 0], [0, 1], [0, 1]]
    assert "region: north, south unknown to the model" in other.notes(1)


@pytest.mark.parametrize("together", [False, True])
def test_the_model_reads_them_and_the_run_keeps_them(together: bool, tmp_path: Path) -> None:
    values = torch.sin(torch.arange(60.0)[:, None] * torch.tensor([0.3, 0.5]))
    static = {"region": ["north", "south"]}
    data = Series(values, groups={"n": 30, "s": 30}, static=static, context=4, horizon=2)
    assert data.fingerprint != Series(values, groups={"n": 30, "s": 30}, context=4, horizon=2).fingerprint
    model = Forecaster.of(data, ForecasterConfig(hidden=4, season=2, patch=2, together=together))
    train(model, data, steps=2, batch=8, out=tmp_path / "run")
    kept = load(tmp_path / "run")
    assert kept.static == {"region": ("north", "south")}
    batch = data.window(torch.tensor([10, 50]))
    swapped = type(batch)(batch.past, batch.extra, batch.ahead, batch.future, batch.static.flip(0))
    assert not torch.equal(kept.forecast(batch).point, kept.forecast(swapped).point)
    first = data.window(torch.tensor([10]))
    torch.testing.assert_close(kept.forecast(batch).point[:, :1], kept.forecast(first).point)


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table(Path("t.csv"), STORES)
    command = ["train", "forecaster", "--train", "t.csv", "--series", "sales", "--group", "store", "--time", "day"]
    command += ["--static", "region", "size", "--context", "4", "--horizon", "2", "--season", "2", "--hidden", "4"]
    assert main([*command, "--steps", "2", "--threads", "1", "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["predict", "run", "t.csv"]) == 0
    whole = capsys.readouterr().out
    assert len(whole.splitlines()) == 1 + 3 * 2
    assert main(["predict", "run", "t.csv", "--stride", "28"]) == 0
    assert capsys.readouterr().out == whole
    table(Path("new.csv"), {"a": ("west", "large"), "b": ("south", "small")})
    assert main(["evaluate", "run", "new.csv"]) == 0
    capsys.readouterr()
    assert main(["predict", "run", "new.csv"]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[3:] == [line for line in whole.splitlines() if line.startswith("b")]
    assert "region: west is unknown to the model" in told.err


def test_what_changes_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", STORES)
    text = path.read_text().splitlines()
    text[8] = text[8].replace("south", "north")
    path.write_text("\n".join(text))
    wanted = r"t\.csv: line 9: region of series b is 'north', and 'south' in line 3; expected the same in all rows"
    with pytest.raises(DataError, match=wanted):
        Series.from_config(SeriesConfig(train=(path,), **CONFIG), context=4, horizon=2)
    with pytest.raises(DataError, match="static has 1 of region; expected 2, one a group"):
        Series(torch.zeros(60, 1), groups={"n": 30, "s": 30}, static={"region": ["x"]}, context=4, horizon=2)
    with pytest.raises(DataError, match="static is nothing; the model has region"):
        Series(torch.zeros(60, 1), categories={"region": ["x"]}, context=4, horizon=2)
