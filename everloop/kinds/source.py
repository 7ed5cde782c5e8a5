"""Where predictions are read from: a file, or standard input as it comes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar

from everloop.data.error_policy import ErrorPolicy
from everloop.data.files import find_files
from everloop.data.readers.formats import table_endings, table_reader
from everloop.data.readers.lines import decoded, opened, suffix
from everloop.data.readers.source import Header
from everloop.data.tokenize.symbols import UNKNOWN
from everloop.errors import OptionError

Item = TypeVar("Item")


def headed(heading: str, lines: Iterator[str]) -> Iterator[str]:
    """Yield a heading before lines, once the first of them is known: none stands alone above an error."""
    first = next(lines, None)
    yield heading
    if first is not None:
        yield first
        yield from lines


@dataclass(frozen=True)
class PredictSource:
    """What is read, and how.

    Args:
        path: a file, or - for standard input.
        format: what it is, "auto" if its name tells.
        columns: names of the columns of a table without a header.
        batch: how many sequences are read at once; 0: one from standard input, many from a file.
        errors: takes malformed lines.
        header: whether the first line of a table names its columns.
        counts: symbols read, and how many of them the model does not know.
        notes: what else was done to what is read.
    """

    path: Path
    format: str
    columns: tuple[str, ...]
    batch: int
    errors: ErrorPolicy
    header: Header = "auto"
    counts: list[int] = field(default_factory=lambda: [0, 0])
    notes: list[str] = field(default_factory=list)

    @property
    def piped(self) -> bool:
        """Whether it is standard input."""
        return str(self.path) == "-"

    @property
    def place(self) -> str:
        """What messages call it."""
        return "standard input" if self.piped else str(self.path)

    def open(self) -> IO[bytes]:
        """Return the open file."""
        return sys.stdin.buffer if self.piped else opened(self.path)

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield (number, line) of every line, of a folder those of its text files; a malformed one is empty."""
        for path in [None] if self.piped else find_files([self.path]):
            with sys.stdin.buffer if path is None else opened(path) as file:
                for number, raw in enumerate(file, 1):
                    yield number, decoded(raw, self.place if path is None else str(path), number, self.errors) or ""

    def texts(self, column: str, columns: Sequence[str] = ()) -> Iterator[tuple[int, str]]:
        """Yield (number, text) of every line, or of every row of a table as one line; a malformed one is empty.

        Args:
            column: that of the texts.
            columns: the names of all columns of a table without a header, unless `self.columns` has them.
        """
        form = self.chosen_format(table_endings(), "text")
        if form == "text":
            yield from self.lines()
            return
        rows = table_reader(self.path, form)(self, {column: "text"}, self.columns or columns)
        for row in self.each(rows):
            yield (row[0], " ".join(row[2][column].splitlines())) if row else (0, "")

    def each(self, items: Iterable[Item]) -> Iterator[Item | None]:
        """Yield items, and None for each malformed one that was left out between them: answers stand beside lines."""
        seen = self.errors.skipped
        for item in items:
            yield from [None] * (self.errors.skipped - seen)
            seen = self.errors.skipped
            yield item
        yield from [None] * (self.errors.skipped - seen)

    def chosen_format(self, forms: dict[str, str], default: str) -> str:
        """Return the format, among those a model reads: as chosen, as the file's name ends, or `default`.

        `forms` gives the format for each ending of a name.
        """
        known = sorted({*forms.values(), default})
        by_name = default if self.piped else forms.get(suffix(self.path), default)
        chosen = by_name if self.format == "auto" else self.format
        if chosen not in known:
            raise OptionError(f"format is {chosen!r}; this model reads: {', '.join(known)}")
        return chosen

    def saw(self, numbers: Iterable[int]) -> None:
        """Count symbols read, by their numbers."""
        for number in numbers:
            self.counts[0] += 1
            self.counts[1] += number == UNKNOWN

    def chunks(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        """Yield items in batches."""
        size = self.batch or (1 if self.piped else 64)
        items = iter(items)
        while chunk := list(islice(items, size)):
            yield chunk

    def by_path(self) -> Path:
        """Return the path of a file that must be read as a whole.

        Raises:
            OptionError: it is standard input.
        """
        if self.piped:
            raise OptionError("this format cannot come from standard input; name a file")
        return self.path
