"""Tables: what is read, what is malformed and where."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from pathlib import Path

import pytest

from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers import formats
from everloop.data.readers.blocks import in_blocks
from everloop.data.readers.formats import read_rows
from everloop.data.readers.source import ColumnType, FileSource, Row
from everloop.errors import DataError, OptionError

WANTED: dict[str, ColumnType] = {"text": "text", "label": "text"}
FORMS = {
    "t.tsv": "label\ttext\nA\tone, two\n\nB\tthree\n",
    "t.csv": 'label,text\nA,"one, two"\n\nB,three\n',
    "t.jsonl": '{"label": "A", "text": "one, two"}\n\n{"text": "three", "label": "B", "more": 1}\n',
}


def table(
    path: Path,
    content: str,
    wanted: dict[str, ColumnType] = WANTED,
    columns: Sequence[str] = (),
    errors: ErrorPolicy | None = None,
) -> list[Row]:
    data = content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return [row for _, _, row in read_rows(FileSource(path, errors or ErrorPolicy()), wanted, columns)]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_the_forms_say_the_same(tmp_path: Path, name: str, packed: str) -> None:
    rows = table(tmp_path / (name + packed), "\ufeff" + FORMS[name])
    expected = [{"text": "one, two", "label": "A"}, {"text": "three", "label": "B"}]
    assert rows == expected


def test_columns_of_a_file_without_header(tmp_path: Path) -> None:
    rows = table(tmp_path / "t.tsv", "good film\t1\nbad film\t0\n", columns=("text", "label"))
    assert [row["label"] for row in rows] == ["1", "0"]


def test_a_field_in_quotes_may_hold_lines(tmp_path: Path) -> None:
    rows = table(tmp_path / "t.csv", 'label,text\nA,"one\ntwo ""quoted"""\nB,three\n')
    assert [row["text"] for row in rows] == ['one\ntwo "quoted"', "three"]


CELLS = ['5" pipe', '5" to 6"', '"5"" pipe"', 'a "b" c', 'x"', '"a\nb"', '""', '""""', '"a,""b\n"""', '"x,""\ny"']


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quotation_marks_are_read_as_the_csv_module_reads_them(tmp_path: Path, cell: str, end: str) -> None:
    text = f"text,label\n{cell},1\nz,{cell}\n{cell},{cell}\nlast,3\n".replace("\n", end)
    expected = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert [dict(row) for row in table(tmp_path / "t.csv", text)] == expected


@pytest.mark.parametrize("place", [0, 25_000])
@pytest.mark.parametrize(
    ("lines", "message", "lost"),
    [
        (['"5 pipe,3', "6,4", "7,5"], 'no quotation mark ends "5 pipe,3…', 1),
        (['"5 pipe,3', '6,"4"', "7,5"], '"5 pipe,3… is followed by 4"', 1),
        (['"5" pipe,3', "6,4", "7,5"], '"5" is followed by  pipe,3', 1),
        (['"5 pipe,3', '"6" pipe,4', "7,5"], '"5 pipe,3… is followed by 6" pipe,4', 2),
    ],
)
def test_quotation_marks_that_are_wrong_cost_their_line_alone(
    tmp_path: Path, place: int, lines: list[str], message: str, lost: int
) -> None:
    rows = ["1,2"] * place + lines
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["text,label", *rows, ""]))
    for reads in (formats.block_reader(path), in_blocks(formats.table_reader(path))):
        with pytest.raises(DataError) as stopped:
            list(reads(FileSource(path, ErrorPolicy()), WANTED))
        assert f"t.csv: line {place + 2}: no CSV ({message})" in str(stopped.value)
        errors = ErrorPolicy("skip")
        found = [x for block in reads(FileSource(path, errors), WANTED) for x in block.columns["text"]]
        assert errors.skipped == lost
        assert len(found) == place + 3 - lost


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_a_name_of_two_columns_is_refused_where_it_is_read(tmp_path: Path, name: str) -> None:
    text = "label,text,more,text,more\na,b,c,d,e\n".replace(",", "," if name == "t.csv" else "\t")
    with pytest.raises(DataError, match=r"the header of .*: 2 columns are called 'text'; expected one"):
        table(tmp_path / name, text)
    assert table(tmp_path / name, text, {"label": "text"}) == [{"label": "a"}]
    with pytest.raises(DataError, match="the columns given: 2 columns are called 'text'"):
        table(tmp_path / name, text, columns=("text", "label", "text", "b", "c"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", "label\ttext\nA\tone\nB\n", "t.tsv: line 3: 1 field; expected 2: label, text"),
        ("t.tsv", "label\ttext\nA\tone\nB\tx\ty\n", "line 3: 3 fields"),
        ("t.csv", 'label,text\nA,one\nB,"x"y\n', "line 3: no CSV"),
        ("t.jsonl", '{"label": "A", "text": "b"}\n{"label": \n', "line 2: no JSON"),
        (
            "t.jsonl",
            '{"label": "A", "text": "b"}\n["A", "b"]\n',
            "line 2: a JSON list; expected one JSON object a line",
        ),
        ("t.jsonl", '{"label": "A", "text": "b"}\n{"label": "A"}\n', "line 2: no 'text' among 'label'; expected text"),
        (
            "t.jsonl",
            '{"label": "A", "text": "b"}\n{"label": "A", "text": [1]}\n',
            r"line 2: text is \[1\]; expected text",
        ),
    ],
)
def test_malformed_lines(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        table(tmp_path / name, content)
    errors = ErrorPolicy("skip")
    assert len(table(tmp_path / name, content, errors=errors)) == 1
    assert errors.skipped == 1
    assert "1 malformed line left out; the first: " in str(errors)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_bytes(b"label\ttext\nA\t\xff\nB\tok\n")
    with pytest.raises(DataError, match=r"line 2: byte 0xff at byte 2 is not UTF-8"):
        list(read_rows(FileSource(tmp_path / "t.tsv", ErrorPolicy()), WANTED, ()))
    assert len(list(read_rows(FileSource(tmp_path / "t.tsv", ErrorPolicy("skip")), WANTED, ()))) == 1


@pytest.mark.parametrize(("text", "number"), [("1.5", 1.5), ("-2e3", -2000), ("x", None), ("nan", None), ("", None)])
def test_numbers(tmp_path: Path, text: str, number: float | None) -> None:
    errors = ErrorPolicy("skip")
    rows = list(table(tmp_path / "t.csv", f"v,w\n7,a\n{text},b\n", {"v": "number"}, errors=errors))
    assert [row["v"] for row in rows] == ([7, number] if number is not None else [7])
    assert errors.skipped == (number is None)


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown column 'text'; did you mean 'texts'"):
        table(tmp_path / "t.tsv", "label\ttexts\nA\tone\n")


def test_no_rows_and_no_form(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no row"):
        table(tmp_path / "t.tsv", "label\ttext\n")
    with pytest.raises(OptionError, match="tells no form"):
        table(tmp_path / "t.xls", "label\ttext\n")
    with pytest.raises(OptionError, match="did you mean 'skip'"):
        ErrorPolicy("skp")  # type: ignore[arg-type]
    (tmp_path / "t.tsv.gz").write_bytes(b"nothing packed")
    with pytest.raises(DataError, match="no gzip file"):
        list(read_rows(FileSource(tmp_path / "t.tsv.gz", ErrorPolicy()), WANTED, ()))
