"""Folders of text files: a file for each label with a text a line, or a folder for each label with a text a file."""

from __future__ import annotations

from collections.abc import Iterator

from everloop.data.files import find_files
from everloop.data.readers.lines import numbered, opened, stem
from everloop.data.readers.source import Fields, Record, Source
from everloop.errors import DataError


def examples(source: Source, fields: Fields) -> Iterator[Record]:
    """Yield the lines of each text file of a folder, labelled with the file's name; or, where text files lie only in
    folders inside of it, each file as one text, labelled with the name of its folder.

    Raises:
        DataError: there are both.
    """
    root = source.by_path()
    files = find_files([root])
    deep = [path for path in files if path.parent != root]
    if deep and len(deep) < len(files):
        flat = next(path for path in files if path.parent == root)
        raise DataError(
            f"{root} has text files of its own, such as {flat.name}, and others in folders, such as "
            f"{deep[0].relative_to(root)}; expected a text file for each label, or a folder for each"
        )
    for path in files:
        with opened(path) as file:
            texts = ((number, line.strip()) for number, line in numbered(file, str(path), source.errors))
            if not deep:
                yield from (Record(text, stem(path), line=number) for number, text in texts if text)
            elif whole := " ".join(text for _, text in texts if text):
                yield Record(whole, path.relative_to(root).parts[0], line=1)
