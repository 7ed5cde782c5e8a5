"""Frames of pandas and polars, and mappings of columns, read as tables are; neither library is imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import IO, Any

from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.blocks import Block, SeeRows, column_of, in_blocks
from everloop.data.readers.source import ColumnType, Header, Row, See, Source
from everloop.data.readers.tables import EXPECTED, value_of
from everloop.errors import DataError, unknown


@dataclass(frozen=True)
class FrameSource:
    """A frame as a source, whose rows `rows` reads. What a line is to a file, a row, counted from 1, is to it."""

    frame: Any
    errors: ErrorPolicy
    place: str = "the frame"
    header: Header = "auto"

    def open(self) -> IO[bytes]:
        """Raise DataError: there are no bytes."""
        raise DataError(f"{self.place} has no bytes to read")

    def by_path(self) -> Path:
        """Raise DataError: there is no file."""
        raise DataError(f"{self.place} is no file")

    def rows(
        self, source: Source, wanted: Mapping[str, ColumnType], columns: Sequence[str] = (), see: See | None = None
    ) -> Iterator[tuple[int, bytes, Row]]:
        """Yield (row, nothing, cells) of each well-formed row.

        Raises:
            DataError: a column is missing, or they are not equally long.
        """
        cells = self._columns(wanted)
        for number, values in enumerate(zip(*cells.values(), strict=True), 1):
            fields = dict(zip(cells, values, strict=True))
            row: Row = {}
            for name, kind in wanted.items():
                row[name] = _cell(fields[name], kind)
                if row[name] is None:
                    came = f"{name} is {fields[name]!r}"
                    self.errors.refuse(f"{self.place}: row {number}: {came}", EXPECTED[kind])
                    break
            else:
                if see:
                    see(number, fields)
                yield number, b"", row

    def blocks(
        self, source: Source, wanted: Mapping[str, ColumnType], columns: Sequence[str] = (), see: SeeRows | None = None
    ) -> Iterator[Block]:
        """Yield all rows in one block if they are well-formed, else as `rows` does."""
        cells = self._columns(wanted)
        lines = range(1, 1 + max(map(len, cells.values()), default=0))
        found = {name: _column(cells[name], kind) for name, kind in wanted.items()}
        if not (lines and all(found.values())):
            yield from in_blocks(self.rows)(source, wanted, columns, see)
            return
        if see:
            see(lines, cells)
        yield Block(lines, found, False)

    def _columns(self, wanted: Iterable[str]) -> dict[str, list[Any]]:
        """Return all columns; those that are wanted are there."""
        cells = columns_of_frame(self.frame, self.place)
        for name in wanted:
            if name not in cells:
                raise DataError(f"{self.place}: {unknown('column', name, cells)}")
        return cells


def columns_of_frame(frame: Any, place: str = "the frame") -> dict[str, list[Any]]:
    """Return the columns of a frame of pandas or polars, or of a mapping, as lists by name.

    Raises:
        DataError: it is something else, the columns are not equally long, or two have one name.
    """
    names = frame if isinstance(frame, Mapping) else getattr(frame, "columns", None)
    if names is None:
        came = type(frame).__name__
        raise DataError(f"{place} is a {came}; expected a frame of pandas or polars, or a mapping of columns by name")
    twice = next((name for name, count in Counter(map(str, names)).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{place}: several columns are called {twice!r}; expected each name once")
    found = {str(name): _listed(frame[name]) for name in names}
    lengths = {name: len(column) for name, column in found.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{place}: columns have {', '.join(f'{n} {k:,}' for n, k in lengths.items())} rows")
    return found


def frame_of(like: Any, columns: dict[str, list[Any]]) -> Any:
    """Return columns as a frame of the library of another one; a mapping gives a dict."""
    return columns if isinstance(like, Mapping) else type(like)(columns)


def _listed(column: Any) -> list[Any]:
    for name in ("to_list", "tolist"):  # pandas and polars, arrays and tensors
        if hasattr(column, name):
            return list(getattr(column, name)())
    return list(column)


def _column(cells: Sequence[Any], kind: ColumnType) -> Sequence[Any]:
    """Return the cells of a column as what it holds; nothing if one is not."""
    if kind in ("number", "value"):
        return column_of(cells, kind)
    found = [_cell(cell, kind) for cell in cells]
    return [] if any(value is None for value in found) else found


def _cell(value: Any, kind: ColumnType) -> Any:
    """Return a cell as what its column holds, None if it is not."""
    if kind == "time" and isinstance(value, date):
        at = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
        return _plain(at) if at == at else None  # NaT of pandas is not
    if kind == "text" and _is_whole(value):
        value = int(value)
    return value_of(value, kind)


def _is_whole(value: Any) -> bool:
    """Return whether a value is a number without a fraction, of whichever type."""
    if isinstance(value, Decimal):
        return value.is_finite() and value == value.to_integral_value()
    return isinstance(value, Real) and not isinstance(value, bool) and value % 1 == 0


def _plain(time: datetime) -> datetime:
    """Return a time of a library as one of Python."""
    found: datetime = time.to_pydatetime() if hasattr(time, "to_pydatetime") else time
    return found
