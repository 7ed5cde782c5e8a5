"""CoNLL: sentences with a word a line, its columns between tabs or spaces, as in the tasks of 2000 and 2003.

An empty line ends a sentence, and so does -DOCSTART-. Comments stand before a sentence and begin with "# ".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.lines import decoded
from everloop.data.readers.source import Fields, Record, Source
from everloop.errors import DataError, OptionError, unknown

DOCUMENT = "-DOCSTART-"
NAMES = "--columns word pos chunk tag --text word --label tag"


class Sentence(NamedTuple):
    """The fields of its words, and the line of its first word."""

    rows: list[list[str]]
    line: int

    def column(self, place: int) -> list[str]:
        """Return a column."""
        return [fields[place] for fields in self.rows]


def sentences(file: Iterable[bytes], place: str, errors: ErrorPolicy) -> Iterator[Sentence]:
    """Yield the sentences of an open file, whose first word says how columns are separated, and how many there are.

    A sentence with a malformed line is malformed as a whole.
    """
    numbered, head = enumerate(file, 1), list[tuple[int, bytes]]()
    first, sign, count = 0, None, 0
    for number, raw in numbered:
        head.append((number, raw))
        begun = raw.decode("utf-8-sig", "replace").rstrip("\r\n")
        if not (_is_between(begun) or _may_be_comment(begun)):
            first, sign = number, "\t" if "\t" in begun else None
            count = len(_fields(begun, sign))
            break
    rows: list[list[str]] = []
    bad, line = False, 0
    for number, raw in chain(head, numbered):
        text = decoded(raw, place, number, errors)
        if text is None:
            bad = True
            continue
        if _is_between(text):
            if rows and not bad:
                yield Sentence(rows, line)
            rows, bad = [], False
            continue
        comment = not rows and _may_be_comment(text)
        fields = _fields(text, sign)
        if comment and (sign or len(fields) != count):
            continue
        line = line if rows else number
        if (fault := _fault(text, fields, count, comment)) and not bad:
            between = f"{count} field{'s' * (count > 1)} between {'tabs' if sign else 'spaces'}, as in line {first}"
            errors.report(place, number, fault, "a word of its own, or a longer comment" if comment else between)
        bad = bad or bool(fault)
        rows.append(fields)
    if rows and not bad:
        yield Sentence(rows, line)


def _is_between(text: str) -> bool:
    """Return whether a line ends a sentence."""
    return not text.strip() or text.split(None, 1)[0] == DOCUMENT


def _may_be_comment(text: str) -> bool:
    return text == "#" or text.startswith("# ")


def _fields(text: str, sign: str | None) -> list[str]:
    """Return what is between tabs, or between spaces; a space that does not break is part of a word."""
    return [field.strip(" ") for field in text.split(sign)] if sign else re.split("[ \t]+", text.strip(" \t"))


def _fault(text: str, fields: list[str], count: int, comment: bool) -> str:
    """Return what is wrong with the line of a word; nothing: "" """
    if comment:
        return f"{text!r}, which may be a comment or the word #"
    if len(fields) != count:
        return f"{len(fields)} field{'s' * (len(fields) > 1)}"
    return "" if all(fields) else f"an empty field in {text!r}"


def tagged(source: Source, fields: Fields) -> Iterator[Record]:
    """Yield two columns of each sentence: the words, and their tags."""
    with source.open() as file:
        for sentence in sentences(file, source.place, source.errors):
            words, tags = (column(sentence, name, fields, source.place) for name in (fields.sequence, fields.label))
            yield Record(words, tags, line=sentence.line)


def column(sentence: Sentence, name: str, fields: Fields, place: str) -> list[str]:
    """Return a column by its name: one of `fields.columns`; else the words come first, and their tags second.

    Raises:
        DataError: there is no such column, or there are others than are named.
    """
    count = len(sentence.rows[0])
    names = fields.columns or (fields.sequence, fields.label)
    if count == 1 and name == fields.sequence:
        return sentence.column(0)
    if count != len(names):
        named = f" and {len(names)} are named" if fields.columns else ""
        came = (
            f"{place}: line {sentence.line} has {count} column{'s' * (count > 1)}{named}: {' '.join(sentence.rows[0])}"
        )
        raise DataError(f"{came}; name them all and say which are read, for instance {NAMES}")
    if name not in names:
        raise OptionError(f"{unknown('column', name, names)}; say which are read, for instance {NAMES}")
    if names.count(name) > 1:
        raise OptionError(f"{names.count(name)} columns are called {name!r}; expected one, for instance {NAMES}")
    return sentence.column(names.index(name))
