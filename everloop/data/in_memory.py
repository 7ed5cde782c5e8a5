"""Data that are in memory, for any dataset: lists, arrays, frames of pandas or polars, datasets of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from everloop.data.readers.frames import columns_of_frame
from everloop.data.resampling import resample
from everloop.errors import DataError, unknown

KINDS = "a pair of lists or arrays, a frame of pandas or polars, a mapping of columns, or a dataset of others"


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
    sequences, labels = _both(source, text, label)
    if len(sequences) != len(labels):
        raise DataError(f"there are {len(sequences):,} sequences and {len(labels):,} labels; expected a label for each")
    return _sequences(sequences), [_label(i, each) for i, each in enumerate(labels)]


def sides(source: Any, *names: str) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return the two things that each example has, as lists or arrays.

    Args:
        source: what holds examples, as `pairs` takes it.
        names: the two columns. A column of mappings, such as the `translation` of Hugging Face, has what it holds.

    Raises:
        DataError: it is none of these, lacks a column, or has not equally many of both.
    """
    first, second = _both(source, *names)
    if len(first) != len(second):
        came = f"there are {len(first):,} and {len(second):,} examples on both sides"
        raise DataError(f"{came}; expected equally many")
    return first, second


def column(source: Any, name: str) -> list[str]:
    """Return texts: a list of them, a column, or the items of a dataset of PyTorch.

    Raises:
        DataError: it is none of these, or one is no text.
    """
    columns = _columns(source, name)
    found = columns[name] if columns else _items(source)
    if found is None:
        raise DataError(f"texts are {type(source).__name__}; expected a list of them, or {KINDS}")
    wrong = next((i for i, text in enumerate(found) if not isinstance(text, str)), None)
    if wrong is not None:
        raise DataError(f"text {wrong + 1} is {found[wrong]!r}; expected a text")
    return list(found)


def tagged(source: Any, text: str, label: str) -> list[tuple[Any, Any]]:
    """Return (words, tags) or (numbers [T, F], tags [T] or [T, K]) of what holds tagged sequences, as `sides` takes it.

    Words and tags are lists, or texts with spaces between them. A list of lists of pairs (word, tag) is taken too, as
    NLTK has them.
    """
    if isinstance(source, list) and all(map(_is_sentence, source)):
        source = [[*zip(*sentence, strict=True)] for sentence in source if sentence]
    return [_tagged(i, *pair) for i, pair in enumerate(zip(*sides(source, text, label), strict=True))]


def given_texts(source: Any, given: str, text: str) -> list[tuple[str | Tensor, str]]:
    """Return texts, each with the label, the vector [n] or the picture [height, width, channels] that stands for it."""
    found = list(zip(*sides(source, given, text), strict=True))
    wrong = next((i for i, (_, text) in enumerate(found) if not isinstance(text, str)), None)
    if wrong is not None:
        raise DataError(f"text {wrong + 1} is {found[wrong][1]!r}; expected a text")
    return [(_label(i, what) if _is_plain(what) else _given(i, what), text) for i, (what, text) in enumerate(found)]


def recordings(source: Any, audio: str, text: str, rate: int) -> list[tuple[Tensor, str]]:
    """Return recordings [n] with what is said: samples at `rate`, or mappings with `array` and `sampling_rate`."""
    clips = []
    for i, (sound, said) in enumerate(zip(*sides(source, audio, text), strict=True)):
        told = isinstance(sound, Mapping) or hasattr(sound, "get_all_samples")  # the latter of Hugging Face since 4.0
        array, own = (sound["array"], int(sound["sampling_rate"])) if told else (sound, rate)
        samples = _numbers(i, array)
        if samples.shape[1] != 1 or not isinstance(said, str):
            came = f"recording {i + 1} has {samples.shape[1]} channels and says {said!r}"
            raise DataError(f"{came}; expected one channel, and a text")
        clips.append((resample(samples[:, 0], own, rate), said))
    return clips


def _both(source: Any, *names: str) -> tuple[Sequence[Any], Sequence[Any]]:
    if columns := _columns(source, *names):
        return columns[names[0]], columns[names[1]]
    if isinstance(source, tuple) and len(source) == 2:
        return source[0], source[1]
    items = None if isinstance(source, Tensor | np.ndarray) else _items(source)
    if items is not None and all(isinstance(item, tuple | list) and len(item) == 2 for item in items):
        return [x for x, _ in items], [y for _, y in items]
    raise DataError(f"examples are {type(source).__name__}; expected {KINDS}")


def _columns(source: Any, *names: str) -> dict[str, Sequence[Any]]:
    """Return the columns that are wanted; nothing if there are no columns."""
    items = _items(source) if isinstance(source, Sequence | Dataset) and not isinstance(source, str) else None
    if items and all(isinstance(item, Mapping) for item in items):
        source = {name: [item.get(name) for item in items] for name in items[0]}
    listed = getattr(source, "column_names", None)  # of a dataset of Hugging Face
    if listed is None and not isinstance(source, Mapping) and not hasattr(source, "columns"):
        return {}
    found: dict[str, Sequence[Any]] = {}
    found |= columns_of_frame(source if listed is None else {name: source[name] for name in listed})
    for cells in [cells for cells in found.values() if cells and all(isinstance(cell, Mapping) for cell in cells)]:
        inside = [name for name in names if name not in found and all(name in cell for cell in cells)]
        found |= {name: [cell[name] for cell in cells] for name in inside}
    for name in names:
        if name not in found:
            raise DataError(f"the examples: {unknown('column', name, found)}")
    return found


def _items(source: Any) -> list[Any] | None:
    for name in ("to_list", "tolist"):  # columns of pandas and polars, whose rows may have other numbers; arrays
        if hasattr(source, name):
            return list(getattr(source, name)())
    if isinstance(source, str | bytes) or not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        return None
    return [source[i] for i in range(len(source))]


def _tagged(index: int, sequence: Any, tags: Any) -> tuple[Any, Any]:
    words = sequence.split() if isinstance(sequence, str) else sequence
    if len(words) and isinstance(words[0], str):
        told = tags.split() if isinstance(tags, str) else tags
        return [str(word) for word in words], [_label(index, tag) for tag in told]
    picture = torch.as_tensor(np.asarray(words))
    return (picture if picture.dim() == 4 else _numbers(index, words)), torch.as_tensor(np.asarray(tags))


def _is_sentence(item: Any) -> bool:
    """Return whether it is a list of pairs (word, tag)."""
    pairs = item if isinstance(item, list) else [None]
    return all(isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs)


def _is_plain(given: Any) -> bool:
    """Return whether what stands for a text is a label."""
    return isinstance(given, str | int | float | np.generic) or given is None


def _given(index: int, given: Any) -> Tensor:
    """Return a vector [n], or a picture [height, width, channels] of whole numbers."""
    numbers = torch.as_tensor(np.array(given))
    if numbers.dim() == 1:
        return numbers.float()
    if numbers.dim() not in (2, 3) or numbers.dtype != torch.uint8:
        came = f"example {index + 1} is {numbers.dtype} {list(numbers.shape)}"
        raise DataError(f"{came}; expected a label, a vector [n] or a picture [height, width, channels] of uint8")
    return numbers if numbers.dim() == 3 else numbers[:, :, None]


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
    if plain is None or plain != plain or plain == "":
        raise DataError(f"example {index + 1} has no label; expected one for each")
    return str(plain)
