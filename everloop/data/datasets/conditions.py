"""Texts, each with what it is written from: a label (a name with its language) or a vector (a caption's image)."""

from __future__ import annotations

import io
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from everloop.data.batching.batch import Batch, existing
from everloop.data.batching.padding import padded
from everloop.data.dataset import SequenceDataset, hold_out
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.files import find_files, read_bytes
from everloop.data.lazy import Mapped, Subset, Zip
from everloop.data.ragged import IntLists, RaggedArray, Strings
from everloop.data.readers.arrays import named, read_npz
from everloop.data.readers.lines import decoded, numbered, opened
from everloop.data.tokenize.vocabulary import Vocabulary
from everloop.errors import DataError, unknown

Given = str | Tensor


@dataclass(frozen=True)
class ConditionsConfig:
    """Which texts are read, and what each is written from."""

    texts: Path | None = None
    """A folder of text files, the file's name is the label of each line; or a file of lines LABEL TAB TEXT."""
    vectors: Path | None = None
    """Instead of labels: a NumPy file (.npy, .npz) with vectors [N, n]; `texts` is then a file of N lines."""
    array: str = ""
    """Name of the array in an .npz file of vectors; not needed where there is one alone."""
    hold_out: float = 0.1
    """Share of the texts, drawn at random, that is kept for validation."""
    malformed: Malformed = "stop"
    """What to do with a line without a label or a text."""


@dataclass(frozen=True)
class ConditionsBatch(Batch):
    """A batch of texts. given: labels [B] or vectors [B, n]; inputs and targets: [T, B] of `lengths` [B].

    The number after the last symbol begins the inputs and ends the targets.
    """

    given: Tensor
    inputs: Tensor
    targets: Tensor
    lengths: Tensor

    @property
    def exists(self) -> Tensor:
        """Where there is a target and no padding, bool [T, B]."""
        return existing(len(self.targets), self.lengths)


class Conditions(SequenceDataset[tuple[Tensor, list[int]], ConditionsBatch]):
    """Texts with a label or a vector each. An item is (label number or vector, symbol numbers of the text).

    Args:
        train, valid, test: (label or vector, text) pairs; all but one part may be empty.
        config: how they are read.
        labels: the labels in order, for instance of a trained model; by default those of `train`.
        vocabulary: the characters; by default those of all texts.
    """

    unit = "texts"

    def __init__(
        self,
        train: Sequence[tuple[Given, str]],
        valid: Sequence[tuple[Given, str]] = (),
        config: ConditionsConfig | None = None,
        labels: Sequence[str] | None = None,
        vocabulary: Vocabulary | None = None,
        test: Sequence[tuple[Given, str]] = (),
        errors: ErrorPolicy | None = None,
    ) -> None:
        super().__init__(config or ConditionsConfig(), errors)
        parts = {name: part for name, part in (("train", train), ("valid", valid), ("test", test)) if len(part)}
        if not parts:
            raise DataError("there are no texts; expected at least one")
        first = next(iter(parts.values()))[0][0]
        self.given_size = None if isinstance(first, str) else len(first)
        self.labels = tuple(labels or sorted({given for given, _ in train if isinstance(given, str)}))
        if vocabulary is None:
            vocabulary = Vocabulary(sorted({symbol for part in parts.values() for _, text in part for symbol in text}))
        self.vocabulary = vocabulary
        self._number = {label: number for number, label in enumerate(self.labels)}
        self.lengths = {}
        self.items = {name: self._encode(name, part) for name, part in parts.items()}

    @classmethod
    def from_config(
        cls, config: ConditionsConfig, labels: Sequence[str] | None = None, vocabulary: Vocabulary | None = None
    ) -> Conditions:
        """Return the texts that a configuration describes; which are held for validation is always the same."""
        if config.texts is None:
            raise DataError("no texts given; name a folder or a file with --texts")
        errors = ErrorPolicy(config.malformed)
        pairs = read_texts(config, errors)
        valid, train = (Subset(pairs, indices) for indices in hold_out(len(pairs), [config.hold_out]))
        return cls(train, valid, config, labels, vocabulary, errors=errors)

    def _encode(self, name: str, pairs: Sequence[tuple[Given, str]]) -> Zip[Tensor, list[int]]:
        given, texts = RaggedArray("int64" if self.given_size is None else "float32"), IntLists()
        for number, (what, text) in enumerate(pairs, 1):
            place = f"{name}, text {number}"
            if isinstance(what, str) and what not in self._number:
                raise DataError(f"{place}: {unknown('label', what, self.labels)}")
            given.append([self._number[what]] if isinstance(what, str) else what)
            texts.append(self.vocabulary.encode(text, place).tolist())
        self.lengths[name] = texts.rows.lengths + 1  # the last symbol ends the text
        return Zip(Mapped(given, _scalar) if self.given_size is None else given, texts)

    def content(self) -> Iterator[bytes]:
        yield repr((self.labels, self.vocabulary.symbols)).encode("utf-8", "replace")
        for name, items in self.items.items():
            yield from (f"{name} {given.tolist()} {numbers}".encode() for given, numbers in items)

    def collate(self, items: Sequence[tuple[Tensor, list[int]]]) -> ConditionsBatch:
        end, (given, texts) = len(self.vocabulary), zip(*items, strict=True)
        inputs, lengths = padded([[end, *text] for text in texts])
        targets, _ = padded([[*text, end] for text in texts])
        return ConditionsBatch(torch.stack(given), inputs, targets, lengths)

    def sizes(self, split: str) -> Sequence[str]:
        return (f"{self.lengths[split].sum():,} symbols",)

    def summary(self) -> str:
        kind = f"{len(self.labels)} labels" if self.labels else f"vectors of {self.given_size}"
        return f"{kind}, {len(self.vocabulary)} characters"


def read_texts(config: ConditionsConfig, errors: ErrorPolicy) -> Sequence[tuple[Given, str]]:
    """Return the texts that a configuration names, each with its label or vector."""
    return _with_vectors(config, errors) if config.vectors else _with_labels(config, errors)


def _with_labels(config: ConditionsConfig, errors: ErrorPolicy) -> Sequence[tuple[Given, str]]:
    assert config.texts is not None, "checked before"
    labels, texts = list[str](), Strings()
    one_each = config.texts.is_dir()
    for path in find_files([config.texts]):
        with opened(path) as file:
            for number, line in numbered(file, str(path), errors):
                label, tab, text = (path.stem, "\t", line) if one_each else line.partition("\t")
                if tab and label.strip() and text.strip():
                    labels.append(sys.intern(label.strip()))  # once in memory, however often it occurs
                    texts.append(text.strip())
                elif line.strip():
                    errors.report(path, number, repr(line), "LABEL TAB TEXT")
    return Zip(labels, texts)


def _with_vectors(config: ConditionsConfig, errors: ErrorPolicy) -> Sequence[tuple[Given, str]]:
    assert config.texts is not None, "checked before"
    assert config.vectors is not None, "checked before"
    vectors, texts = read_vectors(config.vectors, config.array), Strings()
    numbers, count = array("q"), 0
    with opened(config.texts) as file:
        for count, raw in enumerate(file, 1):
            line = decoded(raw, str(config.texts), count, errors)
            if line is not None:
                texts.append(line)
                numbers.append(count - 1)
    if len(vectors) != count:
        raise DataError(
            f"{config.vectors} holds {len(vectors):,} vectors and {config.texts} has {count:,} lines; "
            "expected one row of numbers a line"
        )
    return Zip(Subset(vectors, np.array(numbers)), texts)  # type: ignore[arg-type]


def _scalar(row: Tensor) -> Tensor:
    return row[0]


def read_vectors(path: Path, name: str = "") -> Tensor:
    """Return the vectors [N, n] of a NumPy file: of the array of this name in an .npz file, or of its only one.

    Raises:
        DataError: missing, damaged, no such array, or something else than vectors.
    """
    if path.suffix == ".npz":
        arrays = read_npz(path)
        if not name and len(arrays) != 1:
            raise DataError(f"{path} holds the arrays {', '.join(arrays) or 'none'}; name one with --array")
        found = named(arrays, name or next(iter(arrays)), path)
    else:
        try:
            found = np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise DataError(f"{path} is no NumPy file: {error}") from None
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind not in "biuf":
        shape = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else "an archive"
        raise DataError(f"{path} holds {shape}; expected numbers [N, n], a vector a row")
    with np.errstate(over="ignore"):  # what is too large is told below
        vectors = torch.from_numpy(found.astype(np.float32))
    if not bool(torch.isfinite(vectors).all()):
        raise DataError(f"{path} has numbers that are not finite")
    return vectors
