"""Texts with a name each, of a file or a label: lines NAME TAB TEXT, or a table with a column for each of the two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.formats import read_rows, table_endings
from everloop.data.readers.lines import decoded, numbered, opened, suffix
from everloop.data.readers.source import FileSource


class FileColumns(NamedTuple):
    """The columns of a table that name a file (or are a label), and tell its text."""

    file: str = "file"
    text: str = "text"


FILE_COLUMNS = FileColumns()
COLUMN_ADVICE = "say which ones they are (--file-column, --text-column)"


def named_texts(path: Path, columns: FileColumns, expected: str, errors: ErrorPolicy) -> Iterator[tuple[int, str, str]]:
    """Yield (line, name, text).

    Args:
        path: the list, which may be a table: `is_table` tells.
        columns: those of a table.
        expected: what a line that is none should have been.
        errors: takes malformed lines.
    """
    if is_table(path, columns):
        for number, _, row in read_rows(FileSource(path, errors), dict.fromkeys(columns, "text"), ()):
            name, text = (row[column].strip() for column in columns)
            if name and text:
                yield number, name, " ".join(text.splitlines())
            else:
                errors.report(path, number, f"{columns.text if name else columns.file} is empty", "both")
        return
    with opened(path) as file:
        for number, line in numbered(file, str(path), errors):
            name, _, text = (part.strip() for part in line.partition("\t"))
            if line.count("\t") == 1 and name and text:
                yield number, name, text
            elif line.strip():
                errors.report(path, number, repr(line), expected)


def is_table(path: Path, columns: FileColumns) -> bool:
    """Return whether a file is a table, as its name tells; one in .tsv is, where its first line names both columns."""
    form = table_endings().get(suffix(path)) if suffix(path) and not path.is_dir() else None
    if form != "tsv":
        return form is not None
    with opened(path) as file:
        first = decoded(file.readline(), str(path), 1, ErrorPolicy("skip"))
    return first is not None and {*columns} <= {*first.split("\t")}
