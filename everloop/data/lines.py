"""Lines of files, as they come: with their number and place, unpacked, in memory one at a time."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from everloop.data.faults import Faults
from everloop.data.files import read_bytes
from everloop.errors import DataError


def unpacked(path: str | Path) -> bytes:
    """Return a file's content, unpacked if its name ends in .gz.

    Raises:
        DataError: missing, unreadable or damaged.
    """
    data = read_bytes(path)
    if Path(path).suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is no gzip file, or damaged: {error}") from None


def opened(path: str | Path) -> IO[bytes]:
    """Return an open file that can be read from any place; what is packed is unpacked in memory.

    Raises:
        DataError: missing, unreadable or damaged.
    """
    path = Path(path)
    if path.suffix == ".gz" or not path.is_file():
        return io.BytesIO(unpacked(path))
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def suffix(path: str | Path) -> str:
    """Return the end of a file's name that tells its format, without .gz: ".tsv" of "train.tsv.gz"."""
    path = Path(path)
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def decoded(raw: bytes, place: str, number: int, faults: Faults) -> str | None:
    """Return a line without its end, None if it is malformed."""
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        faults(place, number, f"byte 0x{raw[error.start]:02x} at byte {error.start} is not UTF-8", "UTF-8 text")
        return None
    return text.rstrip("\r\n")


def numbered(file: Iterable[bytes], place: str, faults: Faults) -> Iterator[tuple[int, str]]:
    """Yield (number, line) for the lines of an open file, the first has number 1."""
    for number, raw in enumerate(file, 1):
        line = decoded(raw, place, number, faults)
        if line is not None:
            yield number, line
