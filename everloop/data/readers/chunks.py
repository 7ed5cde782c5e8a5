"""A text file in chunks: UTF-8, cut between lines, so that a file may be larger than memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.lines import opened
from everloop.errors import DataError

SIZE = 1 << 20  # bytes of a chunk, about
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")


@dataclass(frozen=True)
class Chunk:
    """A part of a file: its text, and the position and line of the file at which it begins."""

    text: str
    place: str
    position: int = 0
    line: int = 1


def text_chunks(path: Path, errors: ErrorPolicy, size: int | None = None) -> Iterator[Chunk]:
    """Yield a text without byte order mark, its lines ended by a single newline character.

    A chunk ends after a line; within one that is longer than a chunk, before a space if there is one.

    Args:
        path: the file (.gz is unpacked).
        errors: takes lines that are not UTF-8.
        size: bytes of a chunk, about; by default SIZE.

    Raises:
        DataError: missing, empty, or a line is malformed and stops the reading.
    """
    place, blank = str(path), True
    position, line, offset = 0, 1, 0
    for raw in _cut(path, size or SIZE):
        if not offset and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise DataError(f"{path} is UTF-16, not UTF-8; convert it, for instance with: iconv -f utf-16 -t utf-8")
        text = _decoded(raw, place, line, offset, errors)
        text = (text if offset else text.removeprefix("\ufeff")).replace("\r\n", "\n")
        blank = blank and not text.strip()
        if text:
            yield Chunk(text, place, position, line)
        position, line, offset = position + len(text), line + raw.count(b"\n"), offset + len(raw)
    if blank:
        raise DataError(f"{path} is empty; expected text")


def byte_chunks(path: Path, size: int | None = None) -> Iterator[Chunk]:
    """Yield a file of any bytes; those that are not UTF-8 as half surrogate pairs, as Python's surrogateescape does.

    Raises:
        DataError: missing, or empty.
    """
    position = 0
    for raw in _cut(path, size or SIZE):
        yield Chunk(raw.decode("utf-8", "surrogateescape"), str(path), position)
        position += len(raw)
    if not position:
        raise DataError(f"{path} is empty; expected at least one byte")


def _cut(path: Path, size: int) -> Iterator[bytes]:
    kept = b""
    with opened(path) as file:
        while read := file.read(size):
            raw = kept + read
            end = _end(raw)
            kept = raw[end:]
            if end:
                yield raw[:end]
    if kept:
        yield kept


def _end(raw: bytes) -> int:
    """Return where to cut: after a line, else before a space, else before a character that goes on."""
    if end := raw.rfind(b"\n") + 1:
        return end
    if (end := raw.rfind(b" ")) > 0:
        return end
    for back, byte in enumerate(reversed(raw[-4:]), 1):
        if byte & 0xC0 != 0x80:  # the first byte of a character
            size = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return len(raw) - back if back < size or byte == 0x0D else len(raw)
    return len(raw)


def _decoded(raw: bytes, place: str, line: int, offset: int, errors: ErrorPolicy) -> str:
    """Return a chunk without its malformed lines."""
    try:
        if b"\0" not in raw:
            return raw.decode("utf-8")
    except UnicodeDecodeError:
        pass
    kept = []
    expected = "UTF-8 text: convert the file (iconv -f latin1 -t utf-8), or take bytes as symbols (--units bytes)"
    for number, part in enumerate(_LINE.findall(raw), line):
        try:
            text = part.decode("utf-8")
        except UnicodeDecodeError as error:
            binary = ", and it looks binary" if b"\0" in part else ""
            came = f"byte 0x{part[error.start]:02x} at offset {offset + error.start} is not UTF-8{binary}"
            errors.report(place, number, came, expected)
        else:
            if (zero := part.find(b"\0")) >= 0:
                errors.report(place, number, f"a zero byte at offset {offset + zero}, it looks binary", expected)
            else:
                kept.append(text)
        offset += len(part)
    return "".join(kept)


def lines(chunk: Chunk) -> Iterator[Chunk]:
    """Yield the lines of a chunk."""
    position = chunk.position
    for line, text in enumerate(chunk.text.splitlines(keepends=True), chunk.line):
        yield Chunk(text, chunk.place, position, line)
        position += len(text)


def first(texts: Iterable[str], count: int) -> Iterator[str]:
    """Yield texts up to so many characters of all."""
    for text in texts:
        if count > 0:
            yield text[:count]
        count -= len(text)
