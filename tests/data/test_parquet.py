"""Parquet files: the same data as the same table in CSV, JSON lines or a frame; what is refused, and without polars."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars
import pytest

from everloop.cli import main
from everloop.data import Examples, ExamplesConfig, Series, SeriesConfig, Tagged, TaggedConfig
from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.formats import read_rows
from everloop.data.readers.source import FileSource
from everloop.errors import DataError, OptionError, UnsupportedError
from tests.stubs import cannot_be_imported

TEXTS = ["a good film", "a bad, bad film", "ein „gutes“ Stück", "x"] * 5
LABELS = ["yes", "no", "yes", "no"] * 5


def written(path: Path, **columns: Any) -> Path:
    polars.DataFrame(columns).write_parquet(path)
    return path


def items(data: Any) -> list[Any]:
    return [(x.tolist() if hasattr(x, "tolist") else x, y) for x, y in data["train"]]


def test_examples_are_those_of_the_same_table_as_csv(tmp_path: Path) -> None:
    frame = polars.DataFrame({"id": range(20), "text": TEXTS, "label": LABELS})
    frame.write_csv(tmp_path / "t.csv")
    frame.write_parquet(tmp_path / "t.parquet")
    csv, parquet = (Examples.from_config(ExamplesConfig(train=tmp_path / f"t.{e}")) for e in ("csv", "parquet"))
    assert items(parquet) == items(csv)
    assert parquet.labels.symbols == csv.labels.symbols
    changed = frame.with_columns(text=polars.Series(["a bad film", *TEXTS[1:]]))
    changed.write_parquet(tmp_path / "t.parquet")
    again = Examples.from_config(ExamplesConfig(train=tmp_path / "t.parquet"))
    assert again.fingerprint != parquet.fingerprint, "another word is other data"
    (tmp_path / "u.PARQUET").write_bytes((tmp_path / "t.parquet").read_bytes())
    assert len(Examples.from_config(ExamplesConfig(train=tmp_path / "u.PARQUET", hold_out=(0, 0)))["train"]) == 20
    named = ExamplesConfig(train=written(tmp_path / "n.parquet", review=TEXTS, stars=[5, 1] * 10), text="review")
    numbers = Examples.from_config(ExamplesConfig(train=named.train, text="review", label="stars"))
    assert numbers.labels.symbols == ("1", "5")


@pytest.mark.parametrize(
    "times",
    [
        [datetime(2024, 1, 1 + i // 24, i % 24) for i in range(48)],
        [date(2024, 1 + i // 24, 1 + i % 24) for i in range(24)] * 2,
        [f"2024-01-{1 + i // 24:02} {i % 24:02}:00" for i in range(48)],
    ],
    ids=["datetime", "date", "text"],
)
def test_series_with_times_and_missing_numbers(tmp_path: Path, times: list[Any]) -> None:
    group = ["a"] * 48 if len({*times}) == 48 else ["a"] * 24 + ["b"] * 24
    values = [None if i == 7 else i / 4 for i in range(48)]
    frame = polars.DataFrame({"at": times, "shop": group, "sales": values, "size": [3] * 48})
    frame.write_csv(tmp_path / "t.csv")
    frame.write_parquet(tmp_path / "t.parquet")
    found = []
    for ending in ("csv", "parquet"):
        config = SeriesConfig(train=(tmp_path / f"t.{ending}",), series=("sales",), time=("at",), group=("shop",))
        found.append(Series.from_config(config, context=4, horizon=2))
    csv, parquet = found
    assert parquet.values.isnan().sum() == 1
    assert parquet.values.nan_to_num(-1).equal(csv.values.nan_to_num(-1))
    assert parquet.groups == csv.groups
    assert parquet.calendar.equal(csv.calendar)
    frames = Series.from_frame(frame, config, context=4, horizon=2)
    assert parquet.values.nan_to_num(-1).equal(frames.values.nan_to_num(-1))


def test_words_and_tags_are_lists_or_separated_by_spaces(tmp_path: Path) -> None:
    written(tmp_path / "l.parquet", form=[["a", "b"], ["c"]] * 5, upos=[["X", "Y"], ["X"]] * 5)
    written(tmp_path / "s.parquet", form=["a b", "c"] * 5, upos=["X Y", "X"] * 5)
    lists, spaces = (Tagged.from_config(TaggedConfig(train=tmp_path / f"{n}.parquet", hold_out=(0, 0))) for n in "ls")
    assert [x for x, _ in lists["train"]] == [x for x, _ in spaces["train"]] == [["a", "b"], ["c"]] * 5
    assert lists.labels.symbols == spaces.labels.symbols == ("X", "Y")


def test_decimals_are_numbers(tmp_path: Path) -> None:
    cells: list[Any] = [Decimal(i) / 4 for i in range(40)]
    cells[5] = None
    path = written(tmp_path / "t.parquet", sales=cells, n=[Decimal(i % 2) for i in range(40)], text=["a b"] * 40)
    config = SeriesConfig(train=(path,), series=("sales",))
    found = [Series.from_config(config, context=4, horizon=2)]
    found += [Series.from_frame(f, config, context=4, horizon=2) for f in (polars.read_parquet(path), {"sales": cells})]
    for data in found:
        assert data.values[:, 0].nan_to_num(-1).tolist() == [i / 4 if i != 5 else -1 for i in range(40)]
    labels = Examples.from_config(ExamplesConfig(train=path, label="n", hold_out=(0, 0))).labels.symbols
    assert labels == ("0", "1")
    rows = read_rows(FileSource(path, ErrorPolicy()), {"n": "number"}, ())
    assert [row["n"] for _, _, row in rows] == [0.0, 1.0] * 20


def test_a_column_of_nulls_alone_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", sales=[None] * 40, other=[1.0] * 40)
    for names in (("sales",), ("other", "sales")):
        with pytest.raises(DataError, match="sales has no number in the train"):
            Series.from_config(SeriesConfig(train=(path,), series=names), context=4, horizon=2).scale()


def test_what_is_refused(tmp_path: Path) -> None:
    good = written(tmp_path / "t.parquet", text=TEXTS, label=LABELS)
    for content in (b"", b"text,label\n", good.read_bytes()[:-9], b"PAR1" + good.read_bytes()[4:-8] + b"\xff" * 8):
        (tmp_path / "bad.parquet").write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.parquet is no Parquet file that can be read: "):
            Examples.from_config(ExamplesConfig(train=tmp_path / "bad.parquet"))
    with pytest.raises(DataError, match=r"t\.parque: no such file; did you mean .*t\.parquet\?"):
        Examples.from_config(ExamplesConfig(train=tmp_path / "t.parque", format="parquet"))
    (tmp_path / "bad.parquet").unlink()
    (tmp_path / "bad.parquet").mkdir()
    with pytest.raises(DataError, match=r"bad\.parquet is a folder"):
        list(read_rows(FileSource(tmp_path / "bad.parquet", ErrorPolicy()), {"text": "text"}, (), "parquet"))
    with pytest.raises(DataError, match=r"t\.parquet: unknown column 'txt'; did you mean 'text'"):
        Examples.from_config(ExamplesConfig(train=good, text="txt"))
    with pytest.raises(OptionError, match=r"columns are a, b; .*t\.parquet names its own: text, label"):
        list(read_rows(FileSource(good, ErrorPolicy()), {"text": "text"}, ("a", "b")))
    empty = polars.DataFrame({"text": [], "label": []}, schema={"text": polars.String, "label": polars.String})
    empty.write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(DataError, match=r"empty\.parquet has no row; expected at least one with text, label"):
        Examples.from_config(ExamplesConfig(train=tmp_path / "empty.parquet"))


def test_a_malformed_row_stops_or_is_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", text=["good", None, "bad"], label=["x", "y", "z"])
    with pytest.raises(DataError, match=r"t\.parquet: row 2: text is None; expected text"):
        Examples.from_config(ExamplesConfig(train=path))
    errors = ErrorPolicy("skip")
    rows = list(read_rows(FileSource(path, errors), {"text": "text", "label": "text"}, ()))
    assert [row["text"] for _, _, row in rows] == ["good", "bad"]
    assert [number for number, _, _ in rows] == [1, 3]
    assert errors.skipped == 1


def test_columns_that_look_like_several_series_are_seen(tmp_path: Path) -> None:
    written(tmp_path / "t.parquet", shop=["a"] * 30 + ["b"] * 30, sales=[1.0, 2.0] * 30)
    with pytest.raises(DataError, match="shop has 2 different values in 60 rows"):
        Series.from_config(SeriesConfig(train=(tmp_path / "t.parquet",), series=("sales",)), context=4, horizon=2)


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    written(Path("t.parquet"), text=TEXTS, label=LABELS)
    sizes = ["--hidden", "4", "--steps", "2", "--batch", "4", "--threads", "1", "--out", "run"]
    assert main(["train", "classifier", "--train", "t.parquet", *sizes]) == 0
    capsys.readouterr()
    assert main(["predict", "run", "t.parquet"]) == 0
    assert [line.split("\t")[2] for line in capsys.readouterr().out.splitlines()] == TEXTS
    assert main(["evaluate", "run", "t.parquet"]) == 0
    assert main(["predict", "run", "--format", "parquet"]) == 2
    assert "cannot come from standard input; name a file" in capsys.readouterr().err


def test_without_polars_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "t.parquet", text=TEXTS, label=LABELS)
    cannot_be_imported("polars", ImportError, tmp_path, monkeypatch)
    with pytest.raises(UnsupportedError, match=r"t\.parquet: .* needs polars: pip install 'everloop\[tables\]'"):
        Examples.from_config(ExamplesConfig(train=path))
