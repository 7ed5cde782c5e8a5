"""Tables in blocks of rows, a list for each column: two to five times as quick as a row at a time.

A block of lines is parsed at once, with what parses single lines. Where anything is unusual, and be it an empty line,
its lines are read one by one instead, so that both ways give the same rows and the same errors.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np

from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.lines import ended
from everloop.data.readers.source import ColumnType, Row, RowReader, Source
from everloop.data.readers.tables import DELIMITERS, MAX_FLOAT32, Form, Records, value_of

ROWS = 4096  # of a block, at most
CELLS = 1 << 15  # about; more do not stay in the processor's cache while they are turned into columns

SeeRows = Callable[[Sequence[int], Mapping[str, Sequence[Any]]], None]


class Block(NamedTuple):
    """Rows that follow one another: their lines, and the wanted columns. `gap`: rows before them are lost."""

    lines: Sequence[int]
    columns: dict[str, Sequence[Any]]
    gap: bool


class BlockReader(Protocol):
    """Yields the well-formed rows of a table in blocks; `see` is shown the lines and all the columns of its rows."""

    def __call__(
        self, source: Source, wanted: Mapping[str, ColumnType], columns: Sequence[str] = (), see: SeeRows | None = None
    ) -> Iterable[Block]: ...


def in_blocks(rows: RowReader, size: int = ROWS) -> BlockReader:
    """Return what reads the rows of a reader in blocks of so many."""

    def read(
        source: Source, wanted: Mapping[str, ColumnType], columns: Sequence[str] = (), see: SeeRows | None = None
    ) -> Iterator[Block]:
        skipped = source.errors.skipped
        yield from _gathered(rows(source, wanted, columns, _each(see)), source.errors, skipped, size)

    return read


def read_blocks(
    form: Form,
    source: Source,
    wanted: Mapping[str, ColumnType],
    columns: Sequence[str] = (),
    see: SeeRows | None = None,
) -> Iterator[Block]:
    """Yield the well-formed rows of a table in blocks; the arguments are those of Records."""
    errors, number = source.errors, 0
    skipped = errors.skipped
    with ended(source.open()) as file:
        records = Records(wanted, form, columns, source.place, errors, _each(see), source.header)
        while lines := list(islice(file, _rows(records))):
            if cells := _cells(records, lines, None if see else wanted):
                found = {name: column_of(cells[name], kind) for name, kind in wanted.items()}
            if cells and all(found.values()):
                places = range(number + 1, number + 1 + len(lines))
                if see:
                    see(places, cells)
                yield Block(places, found, errors.skipped > skipped)
                skipped = errors.skipped
            else:
                single = records.lines(enumerate(lines, number + 1))
                skipped = yield from _gathered(single, errors, skipped, ROWS)
            number += len(lines)
        yield from _gathered(records.last(), errors, skipped, ROWS)


def column_of(cells: Sequence[Any], kind: ColumnType) -> Sequence[Any]:
    """Return the cells of a column as what it holds; nothing if one is not."""
    types = {*map(type, cells)}
    if kind == "text" and types == {str}:
        return cells
    if kind in ("number", "value") and types <= {str, float, int}:
        try:
            numbers = array("d", map(float, cells))
        except (ValueError, OverflowError):
            pass
        else:
            if bool((np.abs(np.frombuffer(numbers)) <= MAX_FLOAT32).all()):
                return numbers
    if kind == "time" and types == {str} and all(cell.count("-") != 1 for cell in cells):
        try:
            return [*map(datetime.fromisoformat, cells)]  # where there is neither a year and a month, nor a zone alone
        except ValueError:
            pass
    found = [value_of(cell, kind) for cell in cells]
    return [] if any(value is None for value in found) else found


def _rows(records: Records) -> int:
    """Return how many lines are the next block."""
    return min(ROWS, max(64, CELLS // len(records.columns or " "))) if records.between_rows else 1


def _cells(records: Records, lines: Sequence[bytes], wanted: Collection[str] | None) -> dict[str, Sequence[str]]:
    """Return the cells of some lines by column, of those that are wanted, None: of all.

    There are none where one of the lines needs a look of its own.
    """
    if not records.between_rows:
        return {}
    assert records.columns, "a header has been read"
    try:
        text = b"".join(lines).decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return {}
    texts = text.removesuffix("\n").split("\n")
    if "\r" in text or not all(map(str.strip, texts)):
        return {}
    sign, count = DELIMITERS.get(records.form, "\t"), len(records.columns)
    if sign != "\t" and ('"' in text or max(map(len, texts)) >= csv.field_size_limit()):
        return _quoted(records.columns, texts, sign)
    if {line.count(sign) for line in texts} != {count - 1}:
        return {}
    cells = sign.join(texts).split(sign)
    names = enumerate(records.columns)
    return {name: cells[place::count] for place, name in names if wanted is None or name in wanted}


def _quoted(names: Sequence[str], texts: Sequence[str], sign: str) -> dict[str, Sequence[str]]:
    """Return all cells of lines of CSV by column; nothing where a record has several lines, or is malformed."""
    if any(line.count('"') % 2 for line in texts):
        return {}
    try:
        rows = list(csv.reader(texts, delimiter=sign, strict=True))
    except csv.Error:
        return {}
    if len(rows) != len(texts) or {*map(len, rows)} != {len(names)}:
        return {}
    return dict(zip(names, zip(*rows, strict=True), strict=True))


def _each(see: SeeRows | None) -> Callable[[int, Mapping[str, Any]], None] | None:
    return see and (lambda line, fields: see([line], {name: [cell] for name, cell in fields.items()}))


def _gathered(
    found: Iterable[tuple[int, bytes, Row]], errors: ErrorPolicy, skipped: int, size: int
) -> Generator[Block, None, int]:
    """Yield rows in blocks of `size`, a new one where rows are lost; return how many were by the last row.

    `skipped`: how many had been by the row before the first.
    """
    lines: list[int] = []
    rows: list[Row] = []
    gap = False
    for line, _, row in found:
        lost = errors.skipped > skipped
        if rows and lost:
            yield _block(lines, rows, gap)
            lines, rows = [], []
        gap = gap if rows else lost
        lines.append(line)
        rows.append(row)
        skipped = errors.skipped
        if len(rows) == size:
            yield _block(lines, rows, gap)
            lines, rows = [], []
    if rows:
        yield _block(lines, rows, gap)
    return skipped


def _block(lines: list[int], rows: list[Row], gap: bool) -> Block:
    return Block(lines, {name: [row[name] for row in rows] for name in rows[0]}, gap)
