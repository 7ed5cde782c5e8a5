"""Tables in blocks of rows: rows, lines, gaps and errors are those of reading row by row, whatever a file holds."""

from __future__ import annotations

import gzip
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers import blocks
from everloop.data.readers.blocks import in_blocks, read_blocks
from everloop.data.readers.frames import FrameSource
from everloop.data.readers.source import ColumnType, FileSource
from everloop.data.readers.tables import Form, Records, read_rows
from everloop.errors import DataError

WANTED: dict[str, ColumnType] = {"v": "value", "t": "time", "n": "number", "w": "text"}
SIGNS = {"csv": ",", "semicolons": ";", "tsv": "\t"}
PLAIN = {
    "v": ["1", "-2.5", "1e3", "1_0", " 7"],
    "t": ["2020-01-02", "2020-01-02 03:04", "2020-01-02T03:04:05+01:00", "20200102"],
    "n": ["3", "0.25", "-0"],
    "w": ["a", "b c", "ü", " x "],
    "u": ["ignored", "", "9"],
}
ODD = {
    "v": ["", "NA", "nan", "-nan", "inf", "1e39", "x", "1,5", '"1"', '"1', "٣"],
    "t": [
        "2020",
        "2020-03",
        "2020/01/02",
        " 2020-01-02",
        "20200102T03-05:00",
        "2020-W27",
        "2020-13-01",
        "",
        '"2020-01-02"',
    ],
    "n": ["", "nan", "x", '"2"'],
    "w": ['"a\nb"', '"', 'a"b', '"a""b"', "", "\r", "\0", "\x85"],
    "u": ['"\n\n"', '"', "x;y", "x\ty", "x,y"],
}


HEADER = "\x1f".join(PLAIN)
OTHERS = ["", "   ", "\x1f\x1f\x1f\x1f", HEADER, "1\x1f2"]


def lines(odd: int) -> st.SearchStrategy[str]:
    """Return lines of five cells of which one in `odd` is unusual, and lines that are no rows at all."""

    def cell(name: str) -> st.SearchStrategy[str]:
        return st.integers(1, odd).flatmap(lambda n: st.sampled_from((ODD if n == 1 else PLAIN)[name]))

    row = st.tuples(*map(cell, PLAIN)).map("\x1f".join)
    other = st.sampled_from(OTHERS)
    return st.integers(1, odd).flatmap(lambda n: other if n == 1 else row)


def described(value: Any) -> str:
    return f"{value!r} {getattr(value, 'tzinfo', None)!r}"


def read(path: Path, form: Form, policy: Any, how: Any) -> tuple[Any, ...]:
    """Return the rows, what was shown, and how it ended."""
    errors, seen, found = ErrorPolicy(policy), list[Any](), list[Any]()

    def see(numbers: Any, columns: Any) -> None:
        cells = {name: list(cells) for name, cells in columns.items()}
        seen.extend((line, {n: c[i] for n, c in cells.items()}) for i, line in enumerate(numbers))

    try:
        for block in how(FileSource(path, errors), WANTED, (), see):
            assert block.lines
            for i, line in enumerate(block.lines):
                row = {name: described(column[i]) for name, column in block.columns.items()}
                found.append((line, row, block.gap and not i))
    except DataError as error:
        return [line for line, *_ in found], str(error)
    return found, seen, errors


def check(path: Path, form: Form, texts: list[str], policy: Any) -> None:
    """Check that lines with a header are read in blocks of three as they are one by one."""
    text = "\n".join([HEADER, *texts]).replace("\x1f", SIGNS[form])
    path.write_text(text + "\n" * (len(text) % 2), newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "ROWS", 3)
        quick = read(path, form, policy, lambda *given: read_blocks(form, *given))
        slow = read(path, form, policy, in_blocks(lambda *given: read_rows(form, *given), 1))
    if len(slow) == 2:
        assert quick[1] == slow[1]
        assert quick[0] == slow[0][: len(quick[0])]
    else:
        assert quick == slow


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 40).flatmap(lambda odd: st.lists(lines(odd), max_size=14)),
    st.sampled_from([*SIGNS]),
    st.sampled_from(["skip", "stop"]),
)
def test_rows_are_those_of_the_slow_way(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], form: Form, policy: str
) -> None:
    check(tmp_path_factory.mktemp("blocks") / "t", form, texts, policy)


@pytest.mark.parametrize("form", SIGNS)
@pytest.mark.parametrize("policy", ["skip", "stop"])
def test_one_unusual_line_among_others(tmp_path: Path, form: Form, policy: str) -> None:
    plain = [cells[0] for cells in PLAIN.values()]
    for place, cells in enumerate(ODD.values()):
        for cell in cells:
            line = "\x1f".join([*plain[:place], cell, *plain[place + 1 :]])
            check(tmp_path / "t", form, ["\x1f".join(plain)] * 3 + [line] + ["\x1f".join(plain)] * 3, policy)
    for line in OTHERS:
        check(tmp_path / "t", form, ["\x1f".join(plain)] * 3 + [line] + ["\x1f".join(plain)] * 3, policy)


@pytest.mark.parametrize("policy", ["skip", "stop"])
def test_a_quoted_field_that_seems_to_end_in_the_next_line(tmp_path: Path, policy: str) -> None:
    plain = "1,2020-01-02,3,a,b"
    check(tmp_path / "t", "csv", [plain] * 3 + ['1,2020-01-02,a"b,"c', 'd",x"y', plain, *[plain] * 3], policy)
    check(tmp_path / "t", "csv", [plain] * 3 + ['1,2020-01-02,3,"c', 'd",x', plain, *[plain] * 3], policy)


def test_lines_of_spaces_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("v\tw\n" + "1\t2\n" * 5000 + "   \n")
    found = list(read_blocks("tsv", FileSource(tmp_path / "t", ErrorPolicy()), {"v": "value"}))
    assert sum(len(block.lines) for block in found) == 5000


@pytest.mark.parametrize("form", SIGNS)
def test_a_row_of_empty_cells_is_a_row(tmp_path: Path, form: Form) -> None:
    text = "v,w\n" + "1,2\n" * 4999 + ",\n" + "3,4\n"
    (tmp_path / "t").write_text(text.replace(",", SIGNS[form]))
    for reads in (partial(read_blocks, form), in_blocks(partial(read_rows, form))):
        rows = list(reads(FileSource(tmp_path / "t", ErrorPolicy()), {"v": "value"}))
        found = [v for block in rows for v in block.columns["v"]]
        assert len(found) == 5001
        assert math.isnan(found[4999])


def test_plain_rows_are_not_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    path.write_text("".join(["v,t,n,w,u\n", *('1,2020-01-02,3,"a, b",x\r\n' for _ in range(50))]))
    monkeypatch.setattr(blocks, "ROWS", 5)
    calls: list[int] = []
    single = Records.row

    def counted(self: Records, number: int, raw: bytes) -> Any:
        calls.append(number)
        return single(self, number, raw)

    monkeypatch.setattr(Records, "row", counted)
    found = list(read_blocks("csv", FileSource(path, ErrorPolicy()), WANTED))
    assert calls == [1, 2], "the header, and the line after it, which could be one too"
    assert [len(block.lines) for block in found] == [1, *[5] * 9, 4]
    assert found[-1].columns["w"][-1] == "a, b"


@pytest.mark.parametrize(
    ("column", "kind", "whole"),
    [
        ([1.5, 2, -3e38], "value", True),
        ([1.5, math.nan, None], "value", True),
        ([1.5, math.nan], "number", False),
        ([1.5, True], "value", False),
        ([1.5, math.inf], "value", False),
        (["1", 2], "value", True),
    ],
)
def test_frames_in_blocks(column: list[Any], kind: ColumnType, whole: bool) -> None:
    frame = {"a": column, "b": [*map(str, column)]}
    quick, slow = (FrameSource(frame, ErrorPolicy("skip")) for _ in range(2))
    wanted: dict[str, ColumnType] = {"a": kind, "b": "text"}
    one, other = list(quick.blocks(quick, wanted)), list(in_blocks(slow.rows)(slow, wanted))
    assert [[*block.lines] for block in one] == [[*block.lines] for block in other]
    for name in wanted:
        cells = [described(cell) for block in one for cell in block.columns[name]]
        assert cells == [described(cell) for block in other for cell in block.columns[name]]
    assert quick.errors == slow.errors
    assert isinstance(one[0].lines, range) == whole


@pytest.mark.parametrize("count", [3, 1000])
def test_wide_tables_have_smaller_blocks(tmp_path: Path, count: int) -> None:
    names = [f"c{i}" for i in range(count)]
    rows = [[str(i + j) for j in range(count)] for i in range(200)]
    (tmp_path / "t").write_text("".join(",".join(row) + "\n" for row in [names, *rows]))
    found = list(read_blocks("csv", FileSource(tmp_path / "t", ErrorPolicy()), {"c2": "value", "c0": "text"}))
    assert {name for block in found for name in block.columns} == {"c2", "c0"}
    assert [cell for block in found for cell in block.columns["c2"]] == [i + 2 for i in range(200)]
    assert [cell for block in found for cell in block.columns["c0"]] == [str(i) for i in range(200)]
    assert max(len(block.lines) for block in found) == (199 if count == 3 else 64)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("size", [3, 9000])
def test_lines_that_end_in_a_carriage_return_alone(tmp_path: Path, packed: bool, size: int) -> None:
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    text = "w,v\r" + "".join(f'"a\r{i}",{i}\r' for i in range(size))
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    wanted: dict[str, ColumnType] = {"w": "text", "v": "value"}
    rows = [(line, row["w"], row["v"]) for line, _, row in read_rows("csv", FileSource(path, ErrorPolicy()), wanted)]
    assert rows == [(2 + 2 * i, f"a\n{i}", float(i)) for i in range(size)]
    blocks = list(read_blocks("csv", FileSource(path, ErrorPolicy()), wanted))
    assert [cell for block in blocks for cell in block.columns["w"]] == [row[1] for row in rows]


def test_a_carriage_return_within_a_line_stays(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b'w,v\r\n"a\rb",1\r\n')
    assert [row["w"] for _, _, row in read_rows("csv", FileSource(tmp_path / "t", ErrorPolicy()), {"w": "text"})] == [
        "a\rb"
    ]
