"""Texts with a label or a vector each: lines, a folder of files, lines beside vectors."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from everloop.data.error_policy import ErrorPolicy
from everloop.data.files import find_files
from everloop.data.lazy import Subset, Zip
from everloop.data.ragged import Strings
from everloop.data.readers.arrays import read_vectors
from everloop.data.readers.lines import decoded, numbered, opened, stem
from everloop.errors import DataError


def read_texts(path: Path, vectors: Path | None, name: str, errors: ErrorPolicy) -> Sequence[tuple[str | Tensor, str]]:
    """Return texts, each with its label or, where a file of vectors is given, its vector.

    Args:
        path: a folder of text files, whose names are the labels of their lines, or a file of lines LABEL TAB TEXT;
            with vectors a file of texts, one a line.
        vectors: a NumPy file of vectors [N, n].
        name: the name of the array in an .npz file.
        errors: takes malformed lines.
    """
    return _with_vectors(path, vectors, name, errors) if vectors else _with_labels(path, errors)


def _with_labels(texts_path: Path, errors: ErrorPolicy) -> Sequence[tuple[str, str]]:
    labels, texts = list[str](), Strings()
    one_each = texts_path.is_dir()
    for path in find_files([texts_path]):
        with opened(path) as file:
            for number, line in numbered(file, str(path), errors):
                label, tab, text = (stem(path), "\t", line) if one_each else line.partition("\t")
                if tab and label.strip() and text.strip():
                    labels.append(sys.intern(label.strip()))  # once in memory, however often it occurs
                    texts.append(text.strip())
                elif line.strip():
                    errors.report(path, number, repr(line), "LABEL TAB TEXT")
    return Zip(labels, texts)


def _with_vectors(path: Path, vectors: Path, name: str, errors: ErrorPolicy) -> Sequence[tuple[Tensor, str]]:
    found, texts = read_vectors(vectors, name), Strings()
    numbers, count = array("q"), 0
    with opened(path) as file:
        for count, raw in enumerate(file, 1):
            line = decoded(raw, str(path), count, errors)
            if line is not None:
                texts.append(line)
                numbers.append(count - 1)
    if len(found) != count:
        raise DataError(
            f"{vectors} holds {len(found):,} vectors and {path} has {count:,} lines; expected one row of numbers a line"
        )
    return Zip(Subset(found, np.array(numbers)), texts)  # type: ignore[arg-type]
