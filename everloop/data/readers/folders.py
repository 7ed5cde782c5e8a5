"""A folder of text files: each line is a text, and the name of its file is its label."""

from __future__ import annotations

from collections.abc import Iterator

from everloop.data.files import find_files
from everloop.data.readers.lines import numbered, opened, stem
from everloop.data.readers.source import Fields, Record, Source


def examples(source: Source, fields: Fields) -> Iterator[Record]:
    """Yield the lines of each text file below a folder, labelled with the file's name."""
    for path in find_files([source.by_path()]):
        with opened(path) as file:
            for number, line in numbered(file, str(path), source.errors):
                if text := line.strip():
                    yield Record(text, stem(path), line=number)
