"""JSON files that are one list of objects, as other programs write a table; each object is a row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from everloop.data.files import parse_json
from everloop.data.readers.source import ColumnType, Row, See, Source
from everloop.data.readers.tables import Records
from everloop.errors import DataError


def read_rows(
    source: Source, wanted: Mapping[str, ColumnType], columns: Sequence[str] = (), see: See | None = None
) -> Iterator[tuple[int, bytes, Row]]:
    """Yield (number, its JSON in a line, row) of each well-formed object; the arguments are those of Records.

    Raises:
        DataError: the file is no JSON, or something else than a list.
    """
    with source.open() as file:
        try:
            content = parse_json(file.read())
        except ValueError as error:
            hint = "one object a line is JSON lines: --format jsonl"
            raise DataError(f"{source.place} is no JSON ({error}); expected a list of objects; {hint}") from None
    if not isinstance(content, list):
        hint = "for chorales of a tagger say --format chorales --output several"
        came = f"{source.place} is a JSON {type(content).__name__}"
        raise DataError(f"{came}; expected a list of objects; {hint}")
    lines = ((number, json.dumps(item).encode()) for number, item in enumerate(content, 1))
    yield from Records(wanted, "jsonl", (), f"{source.place}, an object a line", source.errors, see).lines(lines)
