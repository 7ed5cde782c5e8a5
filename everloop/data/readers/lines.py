"""Lines of files, as they come: with their number and place, unpacked, in memory one at a time."""

from __future__ import annotations

import gzip
import io
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from everloop.data.error_policy import ErrorPolicy
from everloop.data.files import open_file
from everloop.errors import DataError

UTF8 = "UTF-8 text: convert the file (iconv -f latin1 -t utf-8), or save it as UTF-8"


def unpacked(path: str | Path) -> bytes:
    """Return a file's content, unpacked if its name ends in .gz.

    Raises:
        DataError: missing, unreadable or damaged.
    """
    with opened(path) as file:
        return file.read()


def opened(path: str | Path) -> BinaryIO:
    """Return an open file to be read once, from its beginning; what is packed is unpacked on the way.

    Raises:
        DataError: missing or unreadable; while it is read, damaged.
    """
    file = open_file(path)
    return io.BufferedReader(_Unpacked(path, file)) if Path(path).suffix == ".gz" else file


def ended(file: IO[bytes]) -> IO[bytes]:
    """Return an open file, of whose beginning nothing is read yet, with lines that end in a newline character.

    Old programs for the Macintosh, and spreadsheets that write for them, end lines with a carriage return alone.
    """
    begin = file.peek() if isinstance(file, io.BufferedReader) else b""
    return io.BufferedReader(_Returns(file)) if b"\r" in begin[:-1] and b"\n" not in begin else file


class _Returns(io.RawIOBase):
    """The content of a file with a newline character for each carriage return."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        found = self.file.read(len(room)).replace(b"\r", b"\n")
        room[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self.file.close()
        super().close()


class _Unpacked(io.RawIOBase):
    """The content of a packed file, with errors that name it."""

    def __init__(self, path: str | Path, file: BinaryIO) -> None:
        self.path, self.file, self.content = path, file, gzip.GzipFile(fileobj=file)

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        try:
            found = self.content.read(len(room))
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{self.path} is no gzip file, or damaged: {error}") from None
        room[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self.file.close()
        super().close()


def suffix(path: str | Path) -> str:
    """Return the end of a file's name that tells its format, without .gz: ".tsv" of "train.tsv.gz"."""
    path = Path(path)
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def stem(path: Path) -> str:
    """Return a file's name without what tells its format: "train" of "train.tsv.gz"."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).stem


def decoded(raw: bytes, place: str, number: int, errors: ErrorPolicy) -> str | None:
    """Return a line without its end, None if it is malformed.

    Raises:
        DataError: it is the first line of a file in UTF-16.
    """
    if number == 1 and raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) and raw.count(0):
        raise DataError(f"{place} is UTF-16, not UTF-8; convert it, for instance with: iconv -f utf-16 -t utf-8")
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        errors.report(place, number, f"byte 0x{raw[error.start]:02x} at byte {error.start} is not UTF-8", UTF8)
        return None
    return text.rstrip("\r\n")


def numbered(file: Iterable[bytes], place: str, errors: ErrorPolicy) -> Iterator[tuple[int, str]]:
    """Yield (number, line) for the lines of an open file, the first has number 1."""
    for number, raw in enumerate(file, 1):
        line = decoded(raw, place, number, errors)
        if line is not None:
            yield number, line
