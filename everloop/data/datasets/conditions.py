"""Strings, each with what it is written from: a label (a name with its language) or a vector (a caption's image)."""

from __future__ import annotations

import hashlib
import io
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from everloop.data.batching.buckets import Groups, buckets, padding_fraction
from everloop.data.batching.padding import Batches, padded
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.files import find_files, read_bytes
from everloop.data.lazy import Array, LazySequence, Subset, Zip
from everloop.data.ragged import IntLists, RaggedArray, Strings
from everloop.data.readers.arrays import named, read_npz
from everloop.data.readers.lines import decoded, numbered, opened
from everloop.data.tokenize.vocabulary import Vocabulary
from everloop.errors import DataError, OptionError, unknown

Given = str | Tensor
PADDING = 0.2  # largest share in a batch


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
class ConditionsBatch:
    """A batch of texts. given: labels [B] or vectors [B, n]; inputs and targets: [T, B] of `lengths` [B].

    The number after the last symbol begins the inputs and ends the targets.
    """

    given: Tensor
    inputs: Tensor
    targets: Tensor
    lengths: Tensor
    first: bool = True

    def to(self, device: torch.device | str) -> ConditionsBatch:
        """Return the batch on a device."""
        given, lengths = self.given.to(device), self.lengths.to(device)
        return ConditionsBatch(given, self.inputs.to(device), self.targets.to(device), lengths)

    @property
    def exists(self) -> Tensor:
        """Where there is a target and no padding, bool [T, B]."""
        return torch.arange(len(self.targets), device=self.lengths.device)[:, None] < self.lengths


class Conditions:
    """Strings with a label or a vector each, for training and validation.

    Args:
        train, valid, test: (label or vector, text) pairs; all but one part may be empty.
        config: how they are read.
        labels: the labels in order, for instance of a trained model; by default those of `train`.
        vocabulary: the characters; by default those of all texts.
    """

    def __init__(
        self,
        train: Sequence[tuple[Given, str]],
        valid: Sequence[tuple[Given, str]] = (),
        config: ConditionsConfig | None = None,
        labels: Sequence[str] | None = None,
        vocabulary: Vocabulary | None = None,
        test: Sequence[tuple[Given, str]] = (),
    ) -> None:
        parts = {name: part for name, part in (("train", train), ("valid", valid), ("test", test)) if len(part)}
        if not parts:
            raise DataError("there are no texts; expected at least one")
        self.config, self.errors = config or ConditionsConfig(), ErrorPolicy()
        first = next(iter(parts.values()))[0][0]
        self.given_size = None if isinstance(first, str) else len(first)
        self.labels = tuple(labels or sorted({given for given, _ in train if isinstance(given, str)}))
        if vocabulary is None:
            vocabulary = Vocabulary(sorted({symbol for part in parts.values() for _, text in part for symbol in text}))
        self.vocabulary = vocabulary
        self._number = {label: number for number, label in enumerate(self.labels)}
        self.lengths: dict[str, Array] = {}
        self.parts = {name: self._encode(name, part) for name, part in parts.items()}

    @classmethod
    def from_config(
        cls, config: ConditionsConfig, labels: Sequence[str] | None = None, vocabulary: Vocabulary | None = None
    ) -> Conditions:
        """Return the texts that a configuration describes; which are held for validation is always the same."""
        if config.texts is None:
            raise DataError("no texts given; name a folder or a file with --texts")
        if not 0 <= config.hold_out < 1:
            raise OptionError(f"hold_out is {config.hold_out}; expected a share below 1")
        errors = ErrorPolicy(config.malformed)
        pairs = read_texts(config, errors)
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).numpy()
        count = round(len(pairs) * config.hold_out)
        data = cls(Subset(pairs, order[count:]), Subset(pairs, order[:count]), config, labels, vocabulary)
        data.errors = errors
        return data

    def _encode(self, name: str, pairs: Sequence[tuple[Given, str]]) -> Zip[Tensor, list[int]]:
        given, texts = RaggedArray("int64" if self.given_size is None else "float32"), IntLists()
        for number, (what, text) in enumerate(pairs, 1):
            place = f"{name}, text {number}"
            if isinstance(what, str) and what not in self._number:
                raise DataError(f"{place}: {unknown('label', what, self.labels)}")
            given.append([self._number[what]] if isinstance(what, str) else what)
            texts.append(self.vocabulary.encode(text, place).tolist())
        self.lengths[name] = texts.rows.lengths + 1  # the last symbol ends the text
        return Zip(Single(given) if self.given_size is None else given, texts)

    @property
    def splits(self) -> tuple[str, ...]:
        """The parts that there are."""
        return tuple(self.parts)

    @cached_property
    def fingerprint(self) -> str:
        """A short name of exactly these texts."""
        digest = hashlib.sha256(repr((self.labels, self.vocabulary.symbols)).encode("utf-8", "replace"))
        for name, pairs in self.parts.items():
            for given, numbers in pairs:
                digest.update(f"{name} {given.tolist()} {numbers}".encode())
        return digest.hexdigest()[:16]

    def epoch(self, split: str, number: int, *, batch: int, length: int = 0, seed: int = 0) -> Batches[ConditionsBatch]:
        """Return the batches of one pass: texts of about the same length together, in training shuffled anew."""
        if split not in self.parts:
            raise OptionError(unknown("part of the data", split, self.parts))
        pairs, stop = self.parts[split], len(self.vocabulary)

        def make(group: list[int]) -> ConditionsBatch:
            given, texts = zip(*(pairs[i] for i in group), strict=True)
            inputs, lengths = padded([[stop, *text] for text in texts])
            targets, _ = padded([[*text, stop] for text in texts])
            return ConditionsBatch(torch.stack(given), inputs, targets, lengths)

        return Batches(self._groups(split, number, batch, seed), make)

    def _groups(self, split: str, number: int, batch: int, seed: int) -> Groups:
        order = seed * 1_000_003 + number if split == "train" else None
        return buckets(self.lengths[split], batch, seed=order, padding=PADDING)

    def notes(self, batch: int) -> list[str]:
        """Return what one should know of the data: sizes, padding, malformed lines."""
        lines = []
        for name, lengths in self.lengths.items():
            share = padding_fraction(self._groups(name, 0, batch, 0), lengths)
            lines.append(f"{name}: {len(lengths):,} texts, {lengths.sum():,} symbols, padding {share:.1%}")
        return [*lines, str(self.errors)] if self.errors.skipped else lines

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {len(pairs):,}" for name, pairs in self.parts.items())
        kind = f"{len(self.labels)} labels" if self.labels else f"vectors of {self.given_size}"
        return f"Conditions({counts} texts, {kind}, {len(self.vocabulary)} characters)"


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


class Single(LazySequence[Tensor]):
    """The numbers of rows of one number each."""

    def __init__(self, rows: RaggedArray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int) -> Tensor:
        return self.rows.item(index)[0]


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
