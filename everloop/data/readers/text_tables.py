"""Texts in a column of a table, one after another, as a language model reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.chunks import Chunk
from everloop.data.readers.formats import block_reader, table_endings
from everloop.data.readers.lines import suffix
from everloop.data.readers.source import FileSource


def table_format(path: Path, form: str) -> str | None:
    """Return the format of a file as a table, None if it is a text. `form`: "text", or "auto": as its name ends."""
    if form == "auto":
        return table_endings().get(suffix(path)) if suffix(path) else None
    return None if form == "text" else form


def column_chunks(
    path: Path, form: str, column: str, columns: Sequence[str], errors: ErrorPolicy, end: str
) -> Iterator[Chunk]:
    """Yield the texts of a column, each ended by `end`, those of some rows in a chunk.

    Args:
        path: the table.
        form: its format.
        column: the name of the column.
        columns: the names of all columns, where there is no header.
        errors: takes malformed rows.
        end: what stands after each text.

    Raises:
        DataError: missing, malformed, or without a row.
    """
    position = 0
    for block in block_reader(path, form)(FileSource(path, errors), {column: "text"}, columns):
        text = "".join(f"{cell}{end}" for cell in block.columns[column])
        yield Chunk(text, str(path), position, block.lines[0])
        position += len(text)
    if not position:
        raise errors.nothing(path, column)
