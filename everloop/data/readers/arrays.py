"""NumPy .npz archives: many sequences of numbers in one file, with their labels."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from everloop.data.files import read_bytes
from everloop.data.lazy import Array
from everloop.data.pictures import brightness
from everloop.data.readers.source import Fields, Record, Source, paired
from everloop.errors import DataError, unknown


def read_npz(path: str | Path) -> dict[str, Array]:
    """Return the arrays of an archive by name; objects (pickles) are refused.

    Raises:
        DataError: missing, damaged, or an array of objects.
    """
    try:
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        why = (
            "it holds objects, which could run code"
            if "Object arrays" in str(error)
            else "it is damaged, or no archive"
        )
        raise DataError(
            f"{path} cannot be read as .npz: {why}; expected arrays of numbers or strings, by np.savez"
        ) from None


def sequences(path: str | Path, values: str, lengths: str) -> list[Tensor]:
    """Return the sequences [T, F] of an archive.

    Args:
        path: the archive.
        values: the name of an array [N, T, F] or [N, T], or [sum of lengths, F] of sequences one after another.
        lengths: the name of an array [N] with the steps of each; "" if all have T.

    Raises:
        DataError: there is no such array, or the sizes do not fit.
    """
    arrays = read_npz(path)
    x, ends = named(arrays, values, path), named(arrays, lengths, path) if lengths else None
    if x.ndim not in (2, 3) or x.dtype.kind not in "biuf":
        raise DataError(f"{path}: {values} is {x.dtype} {list(x.shape)}; expected numbers [N, T, F], or [steps, F]")
    if ends is not None and (ends.ndim != 1 or ends.dtype.kind not in "iu" or (len(ends) and ends.min() < 0)):
        raise DataError(f"{path}: {lengths} is {ends.dtype} {list(ends.shape)}; expected whole numbers [N]")
    with np.errstate(over="ignore"):  # what is too large is told below
        numbers = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    rows = numbers if x.ndim == 3 else numbers[..., None]
    if ends is None:
        found = list(rows)
    elif x.ndim == 2 and int(ends.sum()) == len(x):
        found = list(torch.split(numbers, [int(n) for n in ends]))
    elif len(ends) != len(x) or (len(ends) and ends.max() > x.shape[1]):
        raise DataError(f"{path}: {lengths} does not fit {values} {list(x.shape)}")
    else:
        found = [row[: int(n)] for row, n in zip(rows, ends, strict=True)]
    for number, row in enumerate(found, 1):
        if not bool(torch.isfinite(row).all()):
            raise DataError(f"{path}: sequence {number} of {values} has a number that is not finite")
    return found


def films_or_sequences(path: str | Path, values: str, lengths: str) -> list[Tensor]:
    """Return the films of an archive, [T, height, width, channels] of 0 to 255, or its sequences [T, F].

    Args:
        path: the archive.
        values: the name of an array: films [N, T, height, width] or [N, T, height, width, channels], or else what
            `sequences` takes.
        lengths: the name of an array [N] with the steps of each; "" if all have T.

    Raises:
        DataError: there is no such array, or the sizes do not fit.
    """
    arrays = read_npz(path)
    x = named(arrays, values, path)
    if x.ndim not in (4, 5):
        return sequences(path, values, lengths)
    frames = brightness(x, f"{path}: {values}")
    films = list(frames if x.ndim == 5 else frames[..., None])
    if not lengths:
        return films
    ends = named(arrays, lengths, path)
    if (
        ends.shape != (len(x),)
        or ends.dtype.kind not in "iu"
        or (len(ends) and not 0 <= ends.min() <= ends.max() <= x.shape[1])
    ):
        raise DataError(f"{path}: {lengths} does not fit {values} {list(x.shape)}; expected whole numbers [{len(x)}]")
    return [film[: int(n)] for film, n in zip(films, ends, strict=True)]


def labels(path: str | Path, name: str) -> list[str]:
    """Return the labels [N] of an archive: whole numbers or strings.

    Raises:
        DataError: there is no such array, or it holds something else.
    """
    found = named(read_npz(path), name, path)
    if found.ndim != 1 or found.dtype.kind not in "biuU":
        raise DataError(f"{path}: {name} is {found.dtype} {list(found.shape)}; expected whole numbers or strings [N]")
    return [str(label) for label in found.tolist()]


def tags(path: str | Path, name: str, steps: Sequence[int]) -> list[Tensor]:
    """Return the tags of the sequences of an archive: numbers [N, T], or [N, T, K] of 0 and 1.

    Args:
        path: the archive.
        name: the name of the array.
        steps: of each sequence.

    Raises:
        DataError: there is no such array, or it does not fit the sequences.
    """
    found = named(read_npz(path), name, path)
    several = found.ndim == 3
    if found.ndim not in (2, 3) or found.dtype.kind not in ("biuf" if several else "biu"):
        raise DataError(f"{path}: {name} is {found.dtype} {list(found.shape)}; expected numbers [N, T], or [N, T, K]")
    if len(found) != len(steps):
        raise DataError(f"{path}: {name} has {len(found)} rows; expected {len(steps)}, one a sequence")
    rows = [torch.from_numpy(row[:count].copy()) for row, count in zip(found, steps, strict=True)]
    for number, (row, count) in enumerate(zip(rows, steps, strict=True), 1):
        if len(row) < count:
            raise DataError(f"{path}: sequence {number} has {count} steps and {len(row)} tags; expected equally many")
        if not bool((row >= 0).all()) or (several and not bool((row <= 1).all())):
            expected = "0 and 1" if several else "whole numbers from 0"
            came = f"from {row.min().item():g} to {row.max().item():g}"
            raise DataError(f"{path}: sequence {number} of {name} has tags {came}; expected {expected}")
    return rows


def examples(source: Source, fields: Fields) -> Iterable[Record]:
    """Return the sequences of an archive with their labels."""
    path = source.by_path()
    return paired(str(path), sequences(path, fields.sequence, fields.lengths), labels(path, fields.label))


def tagged(source: Source, fields: Fields) -> Iterable[Record]:
    """Return the sequences of an archive, or its films, with their tags."""
    path = source.by_path()
    found = films_or_sequences(path, fields.sequence, fields.lengths)
    return map(Record, found, tags(path, fields.label, [len(x) for x in found]))


def named(arrays: dict[str, Array], name: str, path: str | Path) -> Array:
    """Return an array by name.

    Raises:
        DataError: there is none; the message names the nearest.
    """
    if name not in arrays:
        raise DataError(f"{path}: {unknown('array', name, arrays)}")
    return arrays[name]


def read_array(path: Path, name: str = "") -> Array:
    """Return an array of a NumPy file: of this name in an .npz file, or its only one.

    Raises:
        DataError: missing, damaged, or no such array.
    """
    if path.suffix == ".npz":
        arrays = read_npz(path)
        if not name and len(arrays) != 1:
            raise DataError(f"{path} holds the arrays {', '.join(arrays) or 'none'}; name one with --array")
        return named(arrays, name or next(iter(arrays)), path)
    content = read_bytes(path)
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError) as error:
        why = f" that can be read ({error})" if content.startswith(b"\x93NUMPY") else ""
        raise DataError(f"{path} is no NumPy file{why}; expected one that numpy.save wrote") from None
    if not isinstance(found, np.ndarray):
        raise DataError(f"{path} holds an archive; expected an array, or a name that ends in .npz")
    return found


def read_vectors(path: Path, name: str = "") -> Tensor:
    """Return the vectors [N, n] of a NumPy file: of the array of this name in an .npz file, or of its only one.

    Raises:
        DataError: missing, damaged, no such array, or something else than vectors.
    """
    found = read_array(path, name)
    if found.ndim != 2 or found.dtype.kind not in "biuf":
        raise DataError(f"{path} holds {found.dtype} {list(found.shape)}; expected numbers [N, n], a vector a row")
    with np.errstate(over="ignore"):  # what is too large is told below
        vectors = torch.from_numpy(found.astype(np.float32))
    if not bool(torch.isfinite(vectors).all()):
        raise DataError(f"{path} has numbers that are not finite")
    return vectors
