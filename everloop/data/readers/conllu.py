"""CoNLL-U: sentences with a word a line and ten columns, as treebanks of Universal Dependencies have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from everloop.data.error_policy import ErrorPolicy
from everloop.data.readers.lines import decoded, opened, suffix
from everloop.data.readers.source import Fields, Record, Source
from everloop.errors import OptionError, unknown

ADVICE = "for lines of a word and its tag say --format conll"
COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")


@dataclass(frozen=True)
class Sentence:
    """A sentence as it stands in the file: `lines` are its comments and rows, `rows` those of its words by line.

    `end` is the line of the file after it.
    """

    lines: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    end: int = 0

    @property
    def begin(self) -> int:
        """The line of the file at which it begins."""
        return self.end - len(self.lines)

    def column(self, name: str) -> list[str]:
        """Return a column of the words."""
        place = place_of(name)
        return [fields[place] for _, fields in self.rows]

    def replaced(self, name: str, values: Iterable[str]) -> str:
        """Return the sentence as text, with other values in a column."""
        place, lines = place_of(name), list(self.lines)
        for (at, fields), value in zip(self.rows, values, strict=True):
            lines[at] = "\t".join((*fields[:place], value, *fields[place + 1 :]))
        return "".join(f"{line}\n" for line in lines) + "\n"


def is_conllu(path: Path) -> bool:
    """Return whether a file is CoNLL-U: as its name says, or its first word where that says only CoNLL."""
    if suffix(path) != ".conll" or not path.is_file():
        return suffix(path) == ".conllu"
    with opened(path) as file:
        words = (line for line in file if line.strip() and not line.startswith((b"#", b"-DOCSTART-")))
        return next(words, b"").count(b"\t") == len(COLUMNS) - 1


def place_of(column: str) -> int:
    """Return the place of a column.

    Raises:
        OptionError: CoNLL-U has no such column.
    """
    if column not in COLUMNS:
        raise OptionError(unknown("column of CoNLL-U", column, COLUMNS))
    return COLUMNS.index(column)


def sentences(file: Iterable[bytes], place: str, errors: ErrorPolicy) -> Iterator[Sentence]:
    """Yield the sentences of an open file. Ranges (3-4) and empty nodes (3.1) are kept, but are no words.

    A sentence with a malformed line is malformed as a whole.
    """
    lines: list[str] = []
    rows: list[tuple[int, tuple[str, ...]]] = []
    bad, number = False, 0
    for number, raw in enumerate(file, 1):
        line = decoded(raw, place, number, errors)
        if line is None:
            bad = True
            continue
        if not line.strip():
            if rows and not bad:
                yield Sentence(tuple(lines), tuple(rows), number)
            lines, rows, bad = [], [], False
            continue
        lines.append(line)
        if bad or line.startswith("#"):
            continue
        fields = tuple(line.split("\t"))
        if len(fields) != len(COLUMNS):
            errors.report(
                place, number, f"{len(fields)} fields", f"{len(COLUMNS)} fields separated by tabs (CoNLL-U); {ADVICE}"
            )
            bad = True
        elif fields[0].isdigit():
            if fields[0] != str(len(rows) + 1) or not fields[1]:
                errors.report(place, number, f"word {fields[0]} {fields[1]!r}", f"word {len(rows) + 1} of the sentence")
                bad = True
            rows.append((len(lines) - 1, fields))
        elif not fields[0].replace("-", "").replace(".", "").isdigit():
            errors.report(place, number, f"id {fields[0]!r}", "a word's number such as 3, 3-4 or 3.1")
            bad = True
    if rows and not bad:
        yield Sentence(tuple(lines), tuple(rows), number + 1)


def tagged(source: Source, fields: Fields) -> Iterator[Record]:
    """Yield two columns of each sentence: the words, and their tags."""
    with source.open() as file:
        for sentence in sentences(file, source.place, source.errors):
            words, tags = sentence.column(fields.sequence), sentence.column(fields.label)
            yield Record(words, tags, line=sentence.begin)
