"""What readers read from, and what they yield."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, Protocol

from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.lines import opened
from everloop.errors import DataError

ColumnType = Literal["text", "words", "number", "value", "time"]
Header = Literal["auto", "yes", "no"]
Row = dict[str, Any]


class Source(Protocol):
    """A file, or a stream: `open` starts at its beginning, `by_path` is for formats that cannot be streamed.

    `header` says whether the first line of a table names its columns; "auto": unless they are named otherwise.
    """

    @property
    def errors(self) -> ErrorPolicy: ...
    @property
    def header(self) -> Header: ...
    @property
    def place(self) -> str: ...
    def open(self) -> IO[bytes]: ...
    def by_path(self) -> Path: ...


@dataclass(frozen=True)
class FileSource:
    """A file on disk, and what to do with its malformed lines."""

    path: Path
    errors: ErrorPolicy
    header: Header = "auto"

    @property
    def place(self) -> str:
        """What messages call it."""
        return str(self.path)

    def open(self) -> IO[bytes]:
        """Return the open file, unpacked if its name ends in .gz."""
        return opened(self.path)

    def by_path(self) -> Path:
        """Return its path."""
        return self.path


@dataclass(frozen=True)
class Fields:
    """Which columns or arrays hold the sequence, its label or tags, and its length.

    `columns` names the columns of a table without a header; `labels` is a file of its own for the labels. `size` is
    height and width to which pictures of files are scaled, none: they stay; `patch` the side of the squares that are
    the steps of a picture, 0: its rows are; `channels` those of training's pictures, None: as fits these.
    """

    sequence: str
    label: str
    lengths: str = ""
    columns: tuple[str, ...] = ()
    labels: Path | None = None
    size: tuple[int, ...] = ()
    patch: int = 0
    channels: int | None = None


class Record(NamedTuple):
    """A sequence (a text, words, or features [T, F]) and its label or tags.

    `raw` is what the fingerprint of the data is made from, by default the sequence; `line` is where it stands, 0 if the
    file has no lines.
    """

    sequence: Any
    label: Any
    raw: bytes | None = None
    line: int = 0


Reader = Callable[[Source, Fields], Iterable[Record]]
See = Callable[[int, Mapping[str, Any]], None]


class RowReader(Protocol):
    """Yields (line number, bytes, row) of each well-formed row of a table; empty lines are passed over."""

    def __call__(
        self, source: Source, wanted: Mapping[str, ColumnType], columns: Sequence[str] = (), see: See | None = None
    ) -> Iterable[tuple[int, bytes, Row]]: ...


def paired(place: str, sequences: Sequence[Any], labels: Sequence[Any]) -> Iterable[Record]:
    """Return sequences with their labels, read from different places, as records.

    Raises:
        DataError: they are not equally many.
    """
    if len(sequences) != len(labels):
        came = f"{place} has {len(sequences):,} sequences and {len(labels):,} labels"
        raise DataError(f"{came}; expected equally many")
    return map(Record, sequences, labels)
