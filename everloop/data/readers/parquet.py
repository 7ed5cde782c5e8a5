"""Parquet files as tables, which polars reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from everloop.data.readers.blocks import Block, SeeRows
from everloop.data.readers.frames import FrameSource
from everloop.data.readers.source import ColumnType, Row, See, Source
from everloop.errors import DataError, OptionError, UnsupportedError, unknown


def read_rows(
    source: Source, wanted: Mapping[str, ColumnType], columns: Sequence[str] = (), see: See | None = None
) -> Iterator[tuple[int, bytes, Row]]:
    """Yield (row, its content, cells) of each well-formed row."""
    found = _frame(source, wanted, columns, whole=see is not None)
    for number, _, row in found.rows(found, wanted, see=see):
        yield number, repr([*row.values()]).encode("utf-8", "replace"), row


def read_blocks(
    source: Source, wanted: Mapping[str, ColumnType], columns: Sequence[str] = (), see: SeeRows | None = None
) -> Iterator[Block]:
    """Yield the well-formed rows in blocks."""
    found = _frame(source, wanted, columns, whole=see is not None)
    yield from found.blocks(found, wanted, see=see)


def _frame(source: Source, wanted: Mapping[str, ColumnType], columns: Sequence[str], *, whole: bool) -> FrameSource:
    """Return the file as a frame; of the file only the columns that are wanted are read, unless it is `whole`.

    Raises:
        DataError: missing, no Parquet file, or without one of the columns.
        OptionError: names of columns were given, which the file has itself.
        UnsupportedError: polars is not installed.
    """
    path = source.by_path()
    source.open().close()  # whose errors name a file that is missing, or a folder
    try:
        import polars
    except ImportError:
        raise UnsupportedError(f"{path}: to read this needs polars: pip install 'everloop[tables]'") from None
    try:
        names = list(polars.read_parquet_schema(path))
        for name in wanted:
            if name not in names:
                raise DataError(f"{path}: {unknown('column', name, names)}; {source.errors.column_advice}")
        if columns and list(columns) != names:
            raise OptionError(f"columns are {', '.join(columns)}; {path} names its own: {', '.join(names)}")
        frame: Any = polars.read_parquet(path, columns=None if whole else list(wanted))
    except polars.exceptions.PolarsError as error:
        raise DataError(f"{path} is no Parquet file that can be read: {str(error).splitlines()[0]}") from None
    return FrameSource(frame, source.errors, str(path))
