"""IDX files: images and their labels, as MNIST comes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everloop.data.readers.lines import unpacked
from everloop.data.readers.source import Fields, Record, Source, paired
from everloop.errors import DataError

_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_idx(path: str | Path) -> Tensor:
    """Return the array of an IDX file (.gz is unpacked), in the type it has there.

    Raises:
        DataError: missing, no IDX file, or cut off.
    """
    data = unpacked(path)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _TYPES:
        raise DataError(f"{path} is no IDX file: it begins with {data[:4].hex(' ')}; expected 00 00, a type and axes")
    kind, axes = np.dtype(_TYPES[data[2]]), data[3]
    start = 4 + 4 * axes
    sizes = [int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4)]
    expected = start + kind.itemsize * math.prod(sizes)
    if len(data) != expected:
        raise DataError(f"{path} has {len(data):,} bytes; expected {expected:,} for an array of {sizes}")
    values: np.ndarray[Any, Any] = np.frombuffer(data, kind, offset=start).reshape(sizes)
    return torch.from_numpy(values.astype(kind.newbyteorder("=")))


def read_images(path: str | Path) -> list[Tensor]:
    """Return images as sequences of their rows [height, width], from 0 to 1.

    Raises:
        DataError: the file does not hold images.
    """
    values = read_idx(path)
    if values.dim() != 3:
        raise DataError(f"{path} holds an array of {values.dim()} axes; expected 3: image, row, column")
    bright = values.float() / 255 if values.dtype == torch.uint8 else values.float()
    return list(bright)


def read_labels(path: str | Path) -> list[str]:
    """Return the labels of an IDX file.

    Raises:
        DataError: the file does not hold labels.
    """
    values = read_idx(path)
    if values.dim() != 1 or values.is_floating_point():
        raise DataError(f"{path} holds {values.dim()} axes of {values.dtype}; expected one axis of whole numbers")
    return [str(value) for value in values.tolist()]


def is_idx(path: Path) -> bool:
    """Return whether the name of a file is that of an IDX file, such as train-images-idx3-ubyte.gz."""
    return "-idx" in path.name or ".idx" in path.name


def examples(source: Source, fields: Fields) -> Iterable[Record]:
    """Return images with their labels, which are in a file of their own."""
    path = source.by_path()
    if fields.labels is None:
        raise DataError(f"{path}: no labels given; name their IDX file, for instance with --train-labels FILE")
    return paired(str(path), read_images(path), read_labels(fields.labels))


def moved(image: Tensor, down: int, right: int) -> Tensor:
    """Return an image moved by some pixels; what comes in is 0."""
    height, width = image.shape
    result = torch.zeros_like(image)
    rows, columns = slice(max(0, down), height + min(0, down)), slice(max(0, right), width + min(0, right))
    from_rows = slice(max(0, -down), height + min(0, -down))
    from_columns = slice(max(0, -right), width + min(0, -right))
    result[rows, columns] = image[from_rows, from_columns]
    return result
