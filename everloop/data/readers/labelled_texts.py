"""Texts with a label, a vector or a picture each: lines, a folder of files, lines beside something else."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from everloop.data.error_policy import ErrorPolicy
from everloop.data.files import find_files
from everloop.data.lazy import Mapped, Subset, Zip
from everloop.data.ragged import Strings
from everloop.data.readers.file_lists import FILE_COLUMNS, FileColumns, is_table, named_texts
from everloop.data.readers.lines import decoded, numbered, opened, stem
from everloop.data.readers.pictures import most_channels, read_picture
from everloop.errors import DataError

LABEL_COLUMNS = FileColumns("label")


def read_texts(path: Path, errors: ErrorPolicy, columns: FileColumns = LABEL_COLUMNS) -> Sequence[tuple[str, str]]:
    """Return texts, each with its label.

    Args:
        path: a folder of text files, whose names are the labels of their lines, or a file of lines LABEL TAB TEXT, or a
            table.
        errors: takes malformed lines.
        columns: those of a table: the labels, and the texts.
    """
    labels, texts = list[str](), Strings()
    if is_table(path, columns):
        for _, label, text in named_texts(path, columns, "", errors):
            labels.append(sys.intern(label))
            texts.append(text)
        return Zip(labels, texts)
    one_each = path.is_dir()
    for file_path in find_files([path]):
        with opened(file_path) as file:
            for number, line in numbered(file, str(file_path), errors):
                label, tab, text = (stem(file_path), "\t", line) if one_each else line.partition("\t")
                if tab and label.strip() and text.strip():
                    labels.append(sys.intern(label.strip()))  # once in memory, however often it occurs
                    texts.append(text.strip())
                elif line.strip():
                    errors.report(file_path, number, repr(line), "LABEL TAB TEXT")
    return Zip(labels, texts)


def beside(path: Path, found: Tensor, place: Path, errors: ErrorPolicy) -> Sequence[tuple[Tensor, str]]:
    """Return texts, one a line, each with what stands for it in another file.

    Args:
        path: the file of texts.
        found: vectors [N, n] or pictures [N, height, width, channels], one for each line.
        place: where they come from, for messages.
        errors: takes malformed lines.

    Raises:
        DataError: there are not as many lines.
    """
    texts, numbers, count = Strings(), array("q"), 0
    with opened(path) as file:
        for count, raw in enumerate(file, 1):
            line = decoded(raw, str(path), count, errors)
            if line is not None:
                texts.append(line)
                numbers.append(count - 1)
    if len(found) != count:
        what = "vectors" if found.dim() == 2 else "pictures"
        raise DataError(
            f"{place} holds {len(found):,} {what} and {path} has {count:,} lines; expected one for each line"
        )
    return Zip(Subset(found, np.array(numbers)), texts)  # type: ignore[arg-type]


def captions(
    path: Path,
    folder: Path,
    size: tuple[int, ...],
    channels: int | None,
    errors: ErrorPolicy,
    columns: FileColumns = FILE_COLUMNS,
) -> Sequence[tuple[Tensor, str]]:
    """Return the pictures of a folder with their texts; a picture is read when it is asked for.

    Args:
        path: lines PICTURE TAB TEXT, where PICTURE is the name of a PNG or JPEG file in the folder; or a table.
        folder: where the pictures are.
        size: height and width to which they are scaled; none: they stay as they are.
        channels: how many they get; None: all 3 if one of them has colours, else 1.
        errors: takes malformed lines, and names of pictures that are not there.
        columns: those of a table.
    """
    files, texts = list[Path](), Strings()
    for number, name, text in named_texts(path, columns, "PICTURE TAB TEXT", errors):
        if (folder / name).is_file():
            files.append(folder / name)
            texts.append(text)
        else:
            errors.report(path, number, f"there is no picture {folder / name}", "a file of the folder")
    channels = channels or most_channels(files)
    return Zip(Mapped(files, partial(read_picture, size=size, channels=channels)), texts)
