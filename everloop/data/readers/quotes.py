"""Quotation marks of CSV: where a record ends, and what is wrong with them."""

from __future__ import annotations

import re

MARK = b'"'
LONGEST = 1 << 20  # bytes of a quoted cell with line breaks
SHOWN = 40
_CLOSING = re.compile(rb'[^"]*+(?:""[^"]*+)*+"')


class Quotes:
    """Follows the quotation marks of a record from line to line.

    A cell is quoted if a quotation mark is its first character; inside it, two of them stand for one. Elsewhere a
    quotation mark is a character like others: `5" pipe,3`.

    Args:
        sign: what separates cells.
    """

    def __init__(self, sign: str) -> None:
        self.sign = sign.encode()
        self.begin()

    def begin(self) -> None:
        """Begin a record."""
        self.cell = b""  # how the quoted cell begins that no quotation mark has ended yet
        self.size = 0  # its bytes
        self.fault = ""

    @property
    def is_open(self) -> bool:
        """Whether the record goes on in the next line."""
        return 0 < self.size < LONGEST

    @property
    def wrong(self) -> str:
        """What is wrong with the record, if it has no more lines; nothing: "" """
        return self.fault or (f"no quotation mark ends {_short(self.cell)}" if self.size else "")

    def add(self, line: bytes) -> None:
        """Take in the next line."""
        if not self.size and MARK not in line:
            return
        at = 0 if self.size else self._opened(line, 0 if line.startswith(MARK) else line.find(self.sign + MARK))
        while at >= 0:
            closing = _CLOSING.match(line, at)
            end = closing.end() if closing else len(line)
            self.cell += line[at : min(end, at + SHOWN)] if len(self.cell) < SHOWN else b""
            self.size += end - at
            if not closing:
                return
            rest = line[end:].rstrip(b"\r\n")
            if rest and not rest.startswith(self.sign):
                self.fault = f"{_short(self.cell)} is followed by {_short(rest)}"
            self.cell, self.size = b"", 0
            at = -1 if self.fault else self._opened(line, line.find(self.sign + MARK, end))

    def _opened(self, line: bytes, at: int) -> int:
        """Return the place after the quotation mark that opens a cell at `at`, where there is one; else -1."""
        if at < 0:
            return -1
        self.cell, self.size = MARK, 1
        return line.index(MARK, at) + 1


def _short(cell: bytes) -> str:
    """Return how a cell begins, in one line."""
    whole = cell.decode("utf-8", "replace").rstrip("\r\n")
    text = "".join(whole.splitlines()[:1])[: SHOWN - 1]
    return text if text == whole else f"{text}…"
