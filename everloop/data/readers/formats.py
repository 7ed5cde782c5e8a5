"""The file formats: one table, by the ending of a file's name.

A new format is a reader in a file of this folder and a row in FORMATS. One that reads rows is thereby read as labelled
examples, as tagged words and as series over time; the other columns are for formats that hold one of these alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from everloop.data.files import find_files
from everloop.data.readers import (
    arrays,
    conll,
    conllu,
    films,
    folders,
    idx,
    json_lists,
    parquet,
    pictures,
    sound,
    tables,
    ts,
    wav,
)
from everloop.data.readers.blocks import BlockReader, in_blocks, read_blocks
from everloop.data.readers.lines import suffix
from everloop.data.readers.source import ColumnType, Fields, FileSource, Reader, Record, Row, RowReader
from everloop.data.resampling import Upsampled, resample
from everloop.errors import DataError, OptionError, unknown


@dataclass(frozen=True)
class Format:
    """A file format.

    Args:
        name: what --format calls it.
        endings: how the names of its files end.
        named: tells its files by their name or kind, where the ending does not.
        rows: reads it as a table.
        blocks: reads it as a table in blocks of rows, where that is quicker.
        examples: reads sequences with one label each.
        tagged: reads sequences with a label for each step.
        audio: reads the samples of a recording, and how many there are in a second.
        has_label_file: whether the labels of its examples are in a file of their own.
    """

    name: str
    endings: tuple[str, ...] = ()
    named: Callable[[Path], bool] | None = None
    rows: RowReader | None = None
    blocks: BlockReader | None = None
    examples: Reader | None = None
    tagged: Reader | None = None
    audio: Callable[[Path], tuple[Tensor, int]] | None = None
    has_label_file: bool = False

    def fits(self, path: Path) -> bool:
        """Return whether a file has this format, as its name says."""
        return self.named(path) if self.named else suffix(path) in self.endings


FORMATS = (
    Format("pictures", named=pictures.has_pictures, examples=pictures.examples),
    Format("films", named=Path.is_dir, tagged=films.tagged),
    Format("files", named=Path.is_dir, examples=folders.examples),
    Format("idx", named=idx.is_idx, examples=idx.examples, has_label_file=True),
    Format("tsv", (".tsv",), rows=partial(tables.read_rows, "tsv"), blocks=partial(read_blocks, "tsv")),
    Format("csv", (".csv",), rows=partial(tables.read_rows, "csv"), blocks=partial(read_blocks, "csv")),
    Format("semicolons", rows=partial(tables.read_rows, "semicolons"), blocks=partial(read_blocks, "semicolons")),
    Format("jsonl", (".jsonl", ".ndjson"), rows=partial(tables.read_rows, "jsonl")),
    Format("json", (".json",), rows=json_lists.read_rows),
    Format("parquet", (".parquet",), rows=parquet.read_rows, blocks=parquet.read_blocks),
    Format("ts", (".ts",), examples=ts.examples),
    Format("npz", (".npz",), examples=arrays.examples, tagged=arrays.tagged),
    Format("conllu", (".conllu",), named=conllu.is_conllu, tagged=conllu.tagged),
    Format("conll", (".conll", ".bio", ".iob"), tagged=conll.tagged),
    Format("wav", (".wav",), audio=wav.read_wav),
    Format("sound", sound.ENDINGS, audio=sound.read_sound),
)


def read_examples(source: FileSource, form: str, fields: Fields) -> Iterator[Record]:
    """Yield the labelled sequences of a file. `form` is the name of its format, "auto" or "table": as its name says."""
    found = format_of(source.path, "auto" if form == "table" else form, lambda f: f.examples or f.rows)
    if fields.labels is not None and not found.has_label_file:
        raise OptionError(f"{fields.labels}: a file of labels is for IDX images; {source.path} holds its labels itself")
    if found.examples:
        yield from found.examples(source, fields)
        return
    wanted: dict[str, ColumnType] = {fields.sequence: "text", fields.label: "text"}
    for line, raw, row in read_rows(source, wanted, fields.columns, form):
        if row[fields.label].strip():
            yield Record(row[fields.sequence], row[fields.label], raw, line)
        else:
            source.errors.report(source.place, line, f"{fields.label} is empty", "a label")


def read_tagged(source: FileSource, form: str, fields: Fields) -> Iterator[Record]:
    """Yield the tagged sequences of a file. `form` is the name of its format, or "auto": as its name says."""
    found = format_of(source.path, form, lambda f: f.tagged or f.rows)
    if found.tagged:
        yield from found.tagged(source, fields)
        return
    assert found.rows, "one of the two is there"
    wanted: dict[str, ColumnType] = {fields.sequence: "words", fields.label: "words"}
    for number, _, row in found.rows(source, wanted, fields.columns):
        words, tags = row[fields.sequence], row[fields.label]
        if len(words) != len(tags):
            source.errors.report(source.place, number, f"{len(words)} words and {len(tags)} tags", "equally many")
        else:
            yield Record(words, tags, line=number)


def read_rows(
    source: FileSource, wanted: Mapping[str, ColumnType], columns: Sequence[str], form: str = "auto"
) -> Iterator[tuple[int, bytes, Row]]:
    """Yield (line, bytes, row) of each well-formed row of a table, one at a time.

    Args:
        source: the file.
        wanted: the columns to read, and what each holds.
        columns: the names of the columns of a file without a header.
        form: the name of its format; "auto" or "table": as the file's name says.

    Raises:
        DataError: missing, malformed, or without any row.
    """
    empty = True
    for found in table_reader(source.path, "auto" if form == "table" else form)(source, wanted, columns):
        yield found
        empty = False
    if empty:
        raise source.errors.nothing(source.place, ", ".join(wanted))


def table_endings() -> dict[str, str]:
    """Return the name of the format for each ending of a table's name; one without an ending is there by its own."""
    return {ending: one.name for one in FORMATS if one.rows for ending in one.endings or (one.name,)}


def table_reader(path: Path, form: str = "auto") -> RowReader:
    """Return what reads the rows of a table."""
    found = format_of(path, form, lambda f: f.rows).rows
    assert found, "format_of returns a format that has one"
    return found


def block_reader(path: Path, form: str = "auto") -> BlockReader:
    """Return what reads the rows of a table in blocks."""
    return format_of(path, form, lambda f: f.rows).blocks or in_blocks(table_reader(path, form))


def audio_endings() -> dict[str, str]:
    """Return the name of the format for each ending of a sound file's name."""
    return {ending: one.name for one in FORMATS if one.audio for ending in one.endings}


def find_audio(folder: Path) -> list[Path]:
    """Return the sound files below a folder, by name.

    Raises:
        DataError: there is none.
    """
    endings = audio_endings()
    found = [path for path in find_files([folder], "*") if suffix(path) in endings]
    if not found:
        raise DataError(f"folder {folder} has no sound file; expected files that end in {', '.join(endings)}")
    return found


def read_audio(path: Path, rate: int | None = None, upsampled: Upsampled | None = None) -> Tensor:
    """Return the samples of a sound file in -1 … 1, with channels averaged, at `rate` samples a second if it is given.

    `upsampled` counts those that have fewer.

    Raises:
        DataError: missing or damaged.
        UnsupportedError: soundfile is needed to read it, and not installed.
    """
    found = format_of(path, "auto", lambda f: f.audio).audio
    assert found, "format_of returns a format that has one"
    samples, own = found(path)
    if rate is None:
        return samples
    if upsampled is not None:
        upsampled.saw(path, own, rate)
    return resample(samples, own, rate)


def told(path: Path) -> bool:
    """Return whether the name of a file tells its format; .json does not, as lists of rows and chorales are JSON."""
    return any(one.fits(path) for one in FORMATS if one.name != "json")


def format_of(path: Path, form: str, reads: Callable[[Format], Any]) -> Format:
    """Return the format of a file, among those that `reads` is true of: by its name, or that of the file.

    Raises:
        OptionError: there is no such format, or the file's name tells none.
    """
    known = [one for one in FORMATS if reads(one)]
    if form != "auto":
        for one in known:
            if one.name == form:
                return one
        raise OptionError(f"{path}: {unknown('format', form, [one.name for one in known])}")
    for one in known:
        if one.fits(path):
            return one
    endings = ", ".join(ending for one in known for ending in one.endings)
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected a file whose name ends in {endings}")
    raise OptionError(
        f"{path}: the name tells no format; expected one that ends in {endings}, or --format with its format"
    )
