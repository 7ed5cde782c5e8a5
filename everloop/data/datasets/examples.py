"""Examples: sequences with one label each, for a classifier."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from everloop.data.batching.buckets import Groups, buckets, padding_fraction
from everloop.data.batching.padding import Batches, padded
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.files import find_files
from everloop.data.lazy import Array, repr_of_list
from everloop.data.ragged import RaggedArray, Strings
from everloop.data.readers.arrays import labels as labels_of
from everloop.data.readers.arrays import sequences
from everloop.data.readers.idx import moved, read_images, read_labels
from everloop.data.readers.lines import numbered, opened, suffix
from everloop.data.readers.series import read_ts
from everloop.data.readers.tables import read_table
from everloop.data.settings import setting
from everloop.data.tokenize.symbols import UNKNOWN, Symbols
from everloop.data.tokenize.words import TextReader, Units
from everloop.errors import DataError, OptionError, unknown

Form = Literal["auto", "table", "files", "idx", "ts", "npz"]
_FORMS: dict[str, Form] = {".ts": "ts", ".npz": "npz", ".tsv": "table", ".csv": "table", ".jsonl": "table"}


@dataclass(frozen=True)
class ExamplesConfig:
    """Which labelled sequences are read, and how."""

    train: Path | None = None
    """Training examples: TSV, CSV, JSON lines, .ts, .npz, IDX images, or a folder with a text file for each label."""
    valid: Path | None = None
    """Validation examples; without a file, `hold_out` says how many."""
    test: Path | None = None
    """Test examples."""
    train_labels: Path | None = None
    """IDX file with the labels of the training images."""
    valid_labels: Path | None = None
    """IDX file with the labels of the validation images."""
    test_labels: Path | None = None
    """IDX file with the labels of the test images."""
    form: Form = "auto"
    """What the files are; by default as their names end, and a folder holds a text file for each label."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a TSV or CSV file that has no header."""
    text: str = "text"
    """The column that holds the text, or the array that holds the sequences."""
    label: str = "label"
    """The column, or the array, that holds the label."""
    lengths: str = ""
    """The array that holds the steps of each sequence."""
    units: Units = "words"
    """What a step of a text is."""
    lower: bool = True
    """Whether texts are read in lower case."""
    min_freq: int = setting(1, old="least")
    """How often a symbol must occur in training to have a number of its own."""
    max_length: int = setting(1000, old="longest")
    """Symbols of a text that are read, at most."""
    hold_out: tuple[float, float] = (0.1, 0.0)
    """Shares of the training examples taken for validation and test, where there is no file for them."""
    shift: int = 0
    """Pixels by which training images are moved, at most and at random, in each direction."""
    padding: float = 0.1
    """Largest share of padding in a batch."""
    malformed: Malformed = "stop"
    """What to do with a malformed line."""


@dataclass(frozen=True)
class ExamplesBatch:
    """Sequences and labels. x: numbers [T, B] or features [T, B, F]; lengths: [B]; y: [B]."""

    x: Tensor
    lengths: Tensor
    y: Tensor
    first: bool = True

    def to(self, device: torch.device | str) -> ExamplesBatch:
        """Return the batch on a device."""
        return ExamplesBatch(self.x.to(device), self.lengths.to(device), self.y.to(device))


@dataclass(frozen=True)
class Part:
    """Some examples: `get` returns the sequence of one by number, `text` that a sequence is a text yet."""

    get: Callable[[int], Any]
    labels: Sequence[str]
    text: bool
    digest: str

    def take(self, chosen: Array) -> Part:
        """Return the examples with these numbers."""
        return Part(
            lambda i: self.get(chosen[i]), [self.labels[i] for i in chosen], self.text, f"{self.digest} {len(chosen)}"
        )

    def __iter__(self) -> Iterator[Any]:
        return (self.get(i) for i in range(len(self.labels)))


class Examples:
    """Labelled sequences in parts "train", "valid" and "test".

    Args:
        parts: the examples by name of their part; texts, or sequences of features [T, F].
        config: how texts are read and batches are made.
        reader, labels: those of a trained model; by default learned from the training part.

    Raises:
        DataError: a part is empty, or a label of another part is not among those of training.
    """

    def __init__(
        self,
        parts: dict[str, Part],
        config: ExamplesConfig | None = None,
        reader: TextReader | None = None,
        labels: Symbols | None = None,
        errors: ErrorPolicy | None = None,
    ) -> None:
        self.config, self.errors = config or ExamplesConfig(), errors or ErrorPolicy()
        self.parts = {name: part for name, part in parts.items() if len(part.labels)}
        first = next(iter(self.parts.values()), None)
        if first is None or ("train" not in self.parts and labels is None):
            raise DataError("there are no training examples; expected at least one")
        if first.text and reader is None:
            texts, how = self.parts["train"], self.config
            reader = TextReader.learn(texts, how.units, lower=how.lower, min_freq=how.min_freq)
        self.reader, self.features = reader, 0 if first.text else first.get(0).shape[1]
        self.labels = labels or Symbols(sorted(set(self.parts["train"].labels)))
        self.numbers = {name: torch.tensor(self._number(name, part.labels)) for name, part in self.parts.items()}
        self.unknown: dict[str, tuple[int, int]] = {}
        self.sequences = {name: self._sequences(name, part) for name, part in self.parts.items()}

    @classmethod
    def from_config(
        cls, config: ExamplesConfig, reader: TextReader | None = None, labels: Symbols | None = None
    ) -> Examples:
        """Return the examples that a configuration describes."""
        if config.train is None:
            raise DataError("no training examples given; name them with --train FILE")
        if config.shift < 0:
            raise OptionError(f"shift is {config.shift}; expected 0 or more")
        errors = ErrorPolicy(config.malformed)
        parts = {"train": read_part(config.train, config.train_labels, config, errors)}
        for name in ("valid", "test"):
            if (path := getattr(config, name)) is not None:
                parts[name] = read_part(path, getattr(config, f"{name}_labels"), config, errors)
        return cls(_held_out(parts, config.hold_out), config, reader, labels, errors)

    def _number(self, name: str, labels: Sequence[str]) -> list[int]:
        for number, label in enumerate(labels, 1):
            if label not in self.labels.numbers:
                raise DataError(f"{name}, example {number}: {unknown('label', label, self.labels.symbols)}")
        return self.labels.encode(labels)

    def _sequences(self, name: str, part: Part) -> tuple[Callable[[int], Any], Array]:
        """Return (what gives the numbers of one example, steps of each), and count the unknown symbols."""
        if not part.text:
            wrong = next((s.shape[1] for s in part if s.shape[1] != self.features), None)
            if wrong is not None:
                raise DataError(f"a {name} series has {wrong} channels; expected {self.features}")
            lengths = np.array([len(series) for series in part])
            if not lengths.all():
                raise DataError(f"{name}, example {lengths.argmin() + 1} has no step; expected at least one")
            return part.get, lengths
        assert self.reader is not None, "texts have a reader"
        encoded, unknowns = RaggedArray(), 0
        for text in part:
            numbers = self.reader.encode(text, self.config.max_length)
            unknowns += numbers.count(UNKNOWN)
            encoded.append(numbers)
        self.unknown[name] = unknowns, len(encoded.all)
        return encoded.__getitem__, encoded.lengths

    @property
    def splits(self) -> tuple[str, ...]:
        """The parts that there are."""
        return tuple(self.parts)

    @property
    def fingerprint(self) -> str:
        """A short name of exactly these examples, labels and symbols."""
        known = self.reader.symbols.symbols if self.reader else self.features
        content = (known, self.labels.symbols, [(name, part.digest) for name, part in self.parts.items()])
        digest = hashlib.sha256(repr(content).encode("utf-8", "replace"))
        for numbers in self.numbers.values():
            digest.update(numbers.numpy().tobytes())
        return digest.hexdigest()[:16]

    def groups(self, split: str, number: int, *, batch: int, seed: int) -> Groups:
        """Return which examples form each batch of a pass."""
        if split not in self.parts:
            raise OptionError(unknown("part of the data", split, self.parts))
        order = seed * 1_000_003 + number if split == "train" else None
        return buckets(self.sequences[split][1], batch, seed=order, padding=self.config.padding)

    def epoch(self, split: str, number: int, *, batch: int, length: int = 0, seed: int = 0) -> Batches[ExamplesBatch]:
        """Return the batches of one pass: sequences of about the same length together, in training shuffled anew."""
        chosen = self.groups(split, number, batch=batch, seed=seed)
        get, _ = self.sequences[split]
        shift = self.config.shift if split == "train" else 0

        def make(group: list[int]) -> ExamplesBatch:
            rows = [get(i) for i in group]
            if shift:
                chance = torch.Generator().manual_seed((seed * 1_000_003 + number) * 1_000_003 + group[0])
                steps = torch.randint(-shift, shift + 1, (len(rows), 2), generator=chance).tolist()
                rows = [moved(row, down, right) for row, (down, right) in zip(rows, steps, strict=True)]
            x, lengths = padded(rows)
            return ExamplesBatch(x if self.features else x.long(), lengths, self.numbers[split][group])

        return Batches(chosen, make)

    def notes(self, batch: int) -> list[str]:
        """Return what one should know of the data: sizes, unknown symbols, padding, malformed lines."""
        lines = []
        for name, part in self.parts.items():
            share = padding_fraction(self.groups(name, 0, batch=batch, seed=0), self.sequences[name][1])
            line = f"{name}: {len(part.labels):,} examples, padding {share:.1%}"
            if name in self.unknown and self.reader:
                few, of = self.unknown[name]
                line += f", {few:,} of {of:,} {self.reader.units} unknown ({few / max(of, 1):.2%})"
            lines.append(line)
        return [*lines, str(self.errors)] if self.errors.skipped else lines

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {len(part.labels):,}" for name, part in self.parts.items())
        return f"Examples({counts}; {len(self.labels)} labels)"


def read_part(path: Path, labels: Path | None, config: ExamplesConfig, errors: ErrorPolicy) -> Part:
    """Return the examples of one file or folder."""
    match form_of(path, config.form):
        case "table":
            rows = read_table(path, {config.text: "text", config.label: "text"}, config.columns, errors)
            return _of_texts((raw, row[config.text], row[config.label]) for raw, row in rows)
        case "files":
            part = _of_texts(record for file in find_files([path]) for record in _lines(file, errors))
            digest = hashlib.sha256()
            for piece in repr_of_list(part):  # as runs of earlier versions have it
                digest.update(piece.encode("utf-8", "replace"))
            return replace(part, digest=digest.hexdigest())
        case "ts":
            series, found = read_ts(path, errors)
        case "npz":
            series = sequences(path, config.text, config.lengths)
            found = labels_of(path, config.label)
        case _:
            if labels is None:
                raise DataError(f"{path}: no labels given; name their IDX file, for instance with --train-labels FILE")
            series, found = read_images(path), read_labels(labels)
    if len(series) != len(found):
        raise DataError(f"{path} has {len(series):,} sequences and {len(found):,} labels; expected equally many")
    return Part(series.__getitem__, found, False, hashlib.sha256(torch.cat(series).numpy().tobytes()).hexdigest())


def form_of(path: Path, form: Form) -> Form:
    """Return what a file is, as it was said, or as its name tells."""
    if form != "auto":
        return form
    if path.is_dir():
        return "files"
    if "-idx" in path.name or ".idx" in path.name:
        return "idx"
    if (found := _FORMS.get(suffix(path))) is None:
        raise OptionError(f"{path}: the name tells no form; say it with --form (table, files, idx, ts, npz)")
    return found


def _lines(file: Path, errors: ErrorPolicy) -> Iterator[tuple[bytes, str, str]]:
    with opened(file) as content:
        for _, line in numbered(content, str(file), errors):
            if text := line.strip():
                yield b"", text, file.stem


def _of_texts(records: Iterable[tuple[bytes, str, str]]) -> Part:
    """Return the examples of records (what tells one from others, text, label)."""
    texts, labels, digest = Strings(), list[str](), hashlib.sha256()
    for raw, text, label in records:
        texts.append(text)
        labels.append(sys.intern(label))  # once in memory, however often it occurs
        digest.update(raw)
    return Part(texts.__getitem__, labels, True, digest.hexdigest())


def _held_out(parts: dict[str, Part], shares: tuple[float, float]) -> dict[str, Part]:
    """Return the parts, with what is missing taken from the training examples, always the same ones."""
    if any(not 0 <= share < 1 for share in shares) or sum(shares) >= 1:
        raise OptionError(f"hold_out is {shares}; expected two shares that leave something for training")
    train = parts["train"]
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(0)).numpy()
    taken = dict(parts)
    # the test part is the same whether or not something is held out for validation
    for name, share in (("test", shares[1]), ("valid", shares[0])):
        if name not in parts and share:
            count = round(share * len(train.labels))
            taken[name], order = train.take(order[:count]), order[count:]
    taken["train"] = train.take(np.sort(order))
    return {name: taken[name] for name in ("train", "valid", "test") if name in taken}
