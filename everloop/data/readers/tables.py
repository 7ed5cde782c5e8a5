"""Tables with a record a line: TSV, CSV, also with semicolons, JSON lines. The user names the columns."""

from __future__ import annotations

import csv
import math
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

from everloop.data.error_policy import ErrorPolicy
from everloop.data.files import parse_json
from everloop.data.readers.lines import decoded, ended
from everloop.data.readers.quotes import Quotes
from everloop.data.readers.source import ColumnType, Header, Row, See, Source
from everloop.errors import DataError, OptionError, unknown

Form = Literal["tsv", "csv", "semicolons", "jsonl"]
DELIMITERS = {"csv": ",", "semicolons": ";"}  # where fields may be quoted
MAX_FLOAT32 = 3.4e38  # of float32
MISSING = frozenset(
    {"", "na", "n/a", "<na>", "nan", "null", "none", "nil", "?", "-"}
)  # what stands for a number that is not there
EXPECTED = {
    "text": "text",
    "words": "a list of words",
    "number": f"a number that is finite and at most {MAX_FLOAT32:g} in size",
    "value": f"a number that is finite and at most {MAX_FLOAT32:g} in size, or nothing",
    "time": "a time such as 2016-07-01 00:00:00",
}


class Records:
    """Turns lines into rows of the wanted columns.

    Args:
        wanted: the columns to read, and what each holds: "text", "words" (separated by spaces; in JSON a list of
            strings), "number", "value" (a number, NaN where it is missing), or "time" (ISO 8601).
        form: "tsv", "csv" or "semicolons" (a quoted field may hold line breaks), or "jsonl".
        columns: the names of the columns of a TSV or CSV file without a header; none: the first line names them.
        place: the file's name, for messages.
        errors: takes malformed lines.
        header: whether the first line names the columns; "auto": if they are not given, or given as it names them.
        see: is shown the number and all the fields of each well-formed record.
    """

    def __init__(
        self,
        wanted: Mapping[str, ColumnType],
        form: Form,
        columns: Sequence[str],
        place: str | Path,
        errors: ErrorPolicy,
        see: See | None = None,
        header: Header = "auto",
    ) -> None:
        if form not in get_args(Form):
            raise OptionError(unknown("form of table", form, get_args(Form)))
        self.wanted, self.form, self.place, self.errors = dict(wanted), form, str(place), errors
        self.see = see
        self.columns: list[str] | None = None
        self.first, self.header = True, header
        self.quotes = Quotes(DELIMITERS[form]) if form in DELIMITERS else None
        self.begun: list[tuple[int, bytes]] = []  # the lines of a record that goes on
        if columns and form != "jsonl":
            self._take_columns(list(columns), "the columns given")
        if header == "no" and self.columns is None and form != "jsonl":
            raise DataError(f"{place} has no header; name its columns with --columns")

    def read(self, file: Iterable[bytes]) -> Iterator[tuple[int, bytes, Row]]:
        """Yield (line number, bytes, row) of each well-formed record of an open file; empty lines are passed over."""
        yield from self.lines(enumerate(file, 1))
        yield from self.last()

    @property
    def between_rows(self) -> bool:
        """Whether the columns are known, no header can come, and no quoted field goes on in the next line."""
        return self.columns is not None and not self.first and not self.begun

    def lines(self, numbered: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes, Row]]:
        """Yield (line number, bytes, row) of each well-formed record that ends within some lines."""
        waiting: list[tuple[int, bytes]] = []  # the next one last
        for line in numbered:
            waiting.append(line)
            while waiting:
                number, raw = waiting.pop()
                self.begun.append((number, raw))
                if self.quotes:
                    self.quotes.add(raw.removeprefix(BOM_UTF8) if number == 1 else raw)
                if not (self.quotes and self.quotes.is_open):
                    yield from self._ended(waiting)

    def last(self) -> Iterator[tuple[int, bytes, Row]]:
        """Yield the records that the end of the file cuts off, if they are well-formed."""
        while self.begun:
            waiting: list[tuple[int, bytes]] = []
            yield from self._ended(waiting)
            yield from self.lines(reversed(waiting))

    def _ended(self, waiting: list[tuple[int, bytes]]) -> Iterator[tuple[int, bytes, Row]]:
        """Yield the record that has ended. Where quotation marks are wrong, its first line is malformed alone."""
        lines, self.begun = self.begun, []
        number, raw = lines[0][0], b"".join(raw for _, raw in lines)
        if self.quotes:
            wrong = self.quotes.wrong
            self.quotes.begin()
            if wrong:
                self.errors.report(self.place, number, f"no CSV ({wrong})", self._expected())
                waiting.extend(reversed(lines[1:]))
                return
        row = self.row(number, raw)
        if row is not None:
            yield number, raw, row

    def _expected(self) -> str:
        between = "commas" if self.form == "csv" else self.form
        return f'fields separated by {between}, and inside quotation marks "" for one of them'

    def row(self, number: int, raw: bytes) -> Row | None:
        """Return the row of one record; None for an empty line, a header or a malformed record."""
        text = decoded(raw, self.place, number, self.errors)
        if text is None or not (text.strip() or (self.form == "tsv" and "\t" in text)):
            return None
        fields = self._fields(number, text)
        found = None if fields is None else self._values(number, fields)
        if self.see and fields is not None and found is not None:
            self.see(number, fields)
        return found

    def _fields(self, number: int, text: str) -> Mapping[str, Any] | None:
        if self.form == "jsonl":
            try:
                value = parse_json(text)
            except ValueError as error:
                self.errors.report(self.place, number, f"no JSON ({error})", "one JSON object a line")
                return None
            if not isinstance(value, dict):
                self.errors.report(self.place, number, f"a JSON {type(value).__name__}", "one JSON object a line")
                return None
            return value
        try:
            sign = DELIMITERS.get(self.form)
            cells = next(csv.reader([text], delimiter=sign, strict=True)) if sign else text.split("\t")
        except csv.Error as error:
            self.errors.report(self.place, number, f"no CSV ({error})", self._expected())
            return None
        if self.columns is None:
            self._take_columns(cells, f"the header of {self.place}")
            return None
        if self.first and (self.header == "yes" or (self.header == "auto" and self._is_header(cells))):
            self.first = False
            return None
        self.first = False
        if len(cells) != len(self.columns):
            expected = f"{len(self.columns)}: {', '.join(self.columns)}"
            self.errors.report(self.place, number, f"{len(cells)} field{'s' if len(cells) > 1 else ''}", expected)
            return None
        return dict(zip(self.columns, cells, strict=True))

    def _is_header(self, cells: list[str]) -> bool:
        """Return whether a line has the names of the columns that are given.

        Raises:
            DataError: it has them otherwise.
        """
        assert self.columns, "only asked where they are given"
        names, given = ([name.strip().casefold() for name in some] for some in (cells, self.columns))
        if names != given and all(name.casefold() in names for name in self.wanted):
            raise DataError(
                f"{self.place}: the first line is a header ({', '.join(cells)}), unlike the columns given "
                f"({', '.join(self.columns)}); leave out --columns, or say --header no if it is data"
            )
        return names == given

    def _take_columns(self, names: list[str], where: str) -> None:
        for name in self.wanted:
            if name not in names:
                said = unknown("column", name, names)
                raise DataError(f"{where}: {said}{'' if said.endswith('?') else ';'} {self._advice(names)}")
            if names.count(name) > 1:
                raise DataError(f"{where}: {names.count(name)} columns are called {name!r}; expected one: rename them")
        self.columns = names

    def _advice(self, names: list[str]) -> str:
        """Return what to do where a column is not there."""
        other = {"csv": {";": "semicolons", "\t": "tsv"}, "tsv": {";": "semicolons", ",": "csv"}}.get(self.form, {})
        for sign, form in other.items():
            if len(names) == 1 and sign in names[0]:
                return f"its fields look as if {sign!r} were between them: say --format {form}"
        said = f"{self.errors.header_advice}{self.errors.column_advice}"
        return (
            f"for lines of a word and its tag say --format conll; {said}" if "words" in self.wanted.values() else said
        )

    def _values(self, number: int, fields: Mapping[str, Any]) -> Row | None:
        row: Row = {}
        for name, kind in self.wanted.items():
            if name not in fields:
                came = f"no {name!r} among {', '.join(map(repr, fields))}"
                self.errors.report(self.place, number, came, f"{EXPECTED[kind]}; {self.errors.column_advice}")
                return None
            value = value_of(fields[name], kind)
            if value is None:
                self.errors.report(self.place, number, f"{name} is {_short(fields[name])}", EXPECTED[kind])
                return None
            row[name] = value
        return row


def read_rows(
    form: Form, source: Source, wanted: Mapping[str, ColumnType], columns: Sequence[str] = (), see: See | None = None
) -> Iterator[tuple[int, bytes, Row]]:
    """Yield (line number, bytes, row) of each well-formed record; the arguments are those of Records."""
    with ended(source.open()) as file:
        yield from Records(wanted, form, columns, source.place, source.errors, see, source.header).read(file)


def value_of(value: Any, kind: ColumnType) -> Any:
    """Return a field as what its column holds, None if it is not."""
    if kind == "text":
        return str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, str | int) else None
    if kind == "words":
        words = value.split() if isinstance(value, str) else value
        right = isinstance(words, list) and words and all(isinstance(word, str) and word for word in words)
        return words if right else None
    if kind == "time":
        return time_of(value) if isinstance(value, str) else None
    number = math.nan
    if isinstance(value, str | int | float | Real | Decimal) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)
    if abs(number) <= MAX_FLOAT32:
        return number
    return math.nan if kind == "value" and str(value).strip().casefold() in MISSING else None


def time_of(text: str) -> datetime | None:
    """Return a time written as ISO 8601 (or with slashes), as year and month, or as a year; None if it is not."""
    text = text.strip()
    if text[:4].isdigit() and text[4:5] == "/":
        text = text.replace("/", "-")
    if len(text) == 4 and text.isdigit():
        text += "-01"
    try:
        return datetime.fromisoformat(text + ("-01" if text.count("-") == 1 else ""))
    except ValueError:
        return None


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
