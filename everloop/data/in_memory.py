"""Labelled examples that are in memory: pairs of lists, arrays, frames of pandas or polars, datasets of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everloop.data.readers.frames import columns_of_frame
from everloop.errors import DataError, unknown

KINDS = "(sequences, labels), a frame of pandas or polars, a mapping of columns, or a dataset of others"


def pairs(source: Any, text: str, label: str) -> tuple[list[str] | list[Tensor], list[str]]:
    """Return (sequences, labels) of what holds examples; sequences are texts, or numbers [T, F].

    Args:
        source: a pair (sequences, labels); a frame of pandas or polars, a mapping, or a Hugging Face dataset, with
            columns `text` and `label`; or a map-style dataset of PyTorch whose items are such pairs.
        text, label: the names of the columns.

    Raises:
        DataError: it is none of these or lacks a column, or an example has no sequence, no label, or a sequence of
            another kind than the first.
    """
    sequences, labels = _sides(source, text, label)
    if len(sequences) != len(labels):
        raise DataError(f"there are {len(sequences):,} sequences and {len(labels):,} labels; expected a label for each")
    return _sequences(sequences), [_label(i, each) for i, each in enumerate(labels)]


def _sides(source: Any, text: str, label: str) -> tuple[Sequence[Any], Sequence[Any]]:
    names = getattr(source, "column_names", None)  # of a dataset of Hugging Face
    if names is not None or isinstance(source, Mapping) or hasattr(source, "columns"):
        columns = columns_of_frame(source if names is None else {name: source[name] for name in names})
        for name in (text, label):
            if name not in columns:
                raise DataError(f"the examples: {unknown('column', name, columns)}")
        return columns[text], columns[label]
    if isinstance(source, tuple) and len(source) == 2:
        return source[0], source[1]
    if not isinstance(source, Tensor | np.ndarray) and hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        items = [source[i] for i in range(len(source))]
        if all(isinstance(item, tuple | list) and len(item) == 2 for item in items):
            return [x for x, _ in items], [y for _, y in items]
    raise DataError(f"examples are {type(source).__name__}; expected {KINDS}")


def _sequences(found: Sequence[Any]) -> list[str] | list[Tensor]:
    if len(found) and isinstance(found[0], str):
        wrong = next((i for i, text in enumerate(found) if not isinstance(text, str)), None)
        if wrong is not None:
            raise DataError(f"example {wrong + 1} is {found[wrong]!r}; expected a text, as the first is")
        return list(found)
    return [_numbers(i, each) for i, each in enumerate(found)]


def _numbers(index: int, found: Any) -> Tensor:
    """Return an example as numbers [T, F]; one axis is one number a step."""
    if found is None or isinstance(found, str | float):
        raise DataError(f"example {index + 1} is {found!r}; expected numbers [T, F]")
    numbers = torch.as_tensor(np.asarray(found)) if not isinstance(found, Tensor) else found
    if numbers.dim() not in (1, 2) or numbers.is_complex():
        raise DataError(f"example {index + 1} is {numbers.dtype} {list(numbers.shape)}; expected numbers [T, F] or [T]")
    numbers = numbers.detach().to("cpu", torch.float32)
    return numbers[:, None] if numbers.dim() == 1 else numbers


def _label(index: int, label: Any) -> str:
    plain = label.item() if isinstance(label, Tensor | np.generic) else label
    if plain is None or plain != plain:
        raise DataError(f"example {index + 1} has no label; expected one for each")
    return str(plain)
