"""Examples: sequences with one label each, for a classifier."""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from everloop.data.batching.batch import Batch
from everloop.data.batching.padding import padded
from everloop.data.dataset import SequenceDataset, shortened, with_held_out
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.in_memory import pairs
from everloop.data.lazy import Array, Mapped, Subset, Zip
from everloop.data.pictures import check_size
from everloop.data.ragged import RaggedArray, Strings
from everloop.data.readers.formats import read_examples
from everloop.data.readers.idx import is_idx, moved
from everloop.data.readers.pictures import channels_of, only_for_folders
from everloop.data.readers.source import Fields, FileSource, Header
from everloop.data.settings import setting
from everloop.data.tokenize.symbols import UNKNOWN, Symbols
from everloop.data.tokenize.words import TextTokenizer, TokenUnits, fitting_units
from everloop.errors import DataError, OptionError, unknown


@dataclass(frozen=True)
class ExamplesConfig:
    """Which labelled sequences are read, and how."""

    train: Path | None = None
    """Training examples: TSV, CSV, JSON lines, .ts, .npz, IDX images, or a folder: for each label a text file
    with a text a line, or a folder of text files, or of PNG and JPEG files."""
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
    format: str = setting("auto", old="form")
    """What the files are: tsv, csv, semicolons, jsonl, json, parquet, files (a folder of texts), pictures (a folder),
    idx, ts or npz; by default as their names end."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a TSV or CSV file that has no header."""
    header: Header = "auto"
    """Whether the first line of a TSV or CSV file names its columns; auto: it does where there are no `columns`, or
    where it has the same names."""
    text: str = "text"
    """The column that holds the text, or the array that holds the sequences."""
    label: str = "label"
    """The column, or the array, that holds the label."""
    lengths: str = ""
    """The array that holds the steps of each sequence."""
    units: TokenUnits | Literal["auto"] = "auto"
    """What a step of a text is: words, or characters, as for scripts without spaces between words; auto: as fits."""
    lower: bool = True
    """Whether texts are read in lower case."""
    min_freq: int = setting(1, old="least")
    """How often a symbol must occur in training to have a number of its own."""
    max_length: int = setting(1000, old="longest")
    """Symbols of a text that are read, at most."""
    hold_out: tuple[float, float] = (0.1, 0.0)
    """Fractions of the training examples taken for validation and test, where there is no file for them."""
    size: tuple[int, ...] = ()
    """Height and width to which the pictures of a folder are scaled; by default they must all have the same."""
    patch: int = 0
    """Side in pixels of the squares of a picture of a folder that are its steps; 0: its rows are."""
    shift: int = 0
    """Pixels by which training images of IDX files are moved, at most and at random, in each direction."""
    padding: float = 0.1
    """Largest fraction of padding in a batch."""
    malformed: Malformed = "stop"
    """What to do with a malformed line."""

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise OptionError(f"shift is {self.shift}; expected 0 or more")


@dataclass(frozen=True)
class ExamplesBatch(Batch):
    """Sequences and labels. x: numbers [T, B] or features [T, B, F]; lengths: [B]; y: [B]."""

    x: Tensor
    lengths: Tensor
    y: Tensor


@dataclass(frozen=True)
class Part:
    """Some examples.

    Args:
        get: returns the sequence of an example by index.
        labels: the label of each.
        text: whether sequences are texts.
        digest: tells these examples from others; it becomes part of the fingerprint.
        place: the file, for messages.
        lines: where in the file each is; none if it has no lines.
    """

    get: Callable[[int], Any]
    labels: Sequence[str]
    text: bool
    digest: str
    place: str = ""
    lines: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Array) -> Part:
        """Return the examples with these indices."""
        get = Subset(Mapped(range(len(self)), self.get), indices).__getitem__
        lines = array("q", (self.lines[i] for i in indices)) if self.lines else ()
        labels = [self.labels[i] for i in indices]
        return Part(get, labels, self.text, f"{self.digest} {len(indices)}", self.place, lines)

    def known(self, split: str, labels: Symbols, errors: ErrorPolicy) -> Part:
        """Return the examples whose labels are known; `errors` takes the others."""
        wrong = [i for i, label in enumerate(self.labels) if label not in labels.numbers]
        for i in wrong:
            where = f"{self.place}: line {self.lines[i]}" if self.lines else f"{self.place or split}, example {i + 1}"
            errors.refuse(f"{where}: {unknown('label', self.labels[i], labels.symbols)}", "a label of training")
        return self.take(np.delete(np.arange(len(self)), wrong)) if wrong else self

    def __iter__(self) -> Iterator[Any]:
        return (self.get(i) for i in range(len(self)))


class Examples(SequenceDataset[tuple[Any, int], ExamplesBatch]):
    """Labelled sequences. An item is (symbol numbers [T] or features [T, F], label number).

    Args:
        parts: the examples of each split; texts, or sequences of features [T, F].
        config: how texts are read and batches are made.
        tokenizer, labels: those of a trained model; by default learned from the training split.

    Raises:
        DataError: there are no examples, or a label of another split is not among those of training.
    """

    unit = "examples"
    read_as = ""  # what was chosen for texts, where it is not words

    def __init__(
        self,
        parts: dict[str, Part],
        config: ExamplesConfig | None = None,
        tokenizer: TextTokenizer | None = None,
        labels: Symbols | None = None,
        errors: ErrorPolicy | None = None,
    ) -> None:
        super().__init__(config or ExamplesConfig(), errors)
        self.padding = self.config.padding
        self.parts = {name: part for name, part in parts.items() if len(part)}
        first = next(iter(self.parts.values()), None)
        if self.config.shift and first is not None and first.text:
            raise OptionError("shift is for images, and these are texts; leave it out")
        if first is None or ("train" not in self.parts and labels is None):
            raise DataError("there are no training examples; expected at least one")
        if first.text and tokenizer is None:
            texts, how = self.parts["train"], self.config
            units = fitting_units(islice(texts, 1000)) if how.units == "auto" else how.units
            tokenizer = TextTokenizer.learn(texts, units, lower=how.lower, min_freq=how.min_freq)
            if units != how.units and units == "characters":
                self.read_as = "texts are read by characters: spaces do not part words (--units words changes it)"
        self.tokenizer, self.features = tokenizer, 0 if first.text else first.get(0).shape[1]
        self.labels = labels or _learned(self.parts["train"].labels)
        self.parts = {name: part.known(name, self.labels, self.errors) for name, part in self.parts.items()}
        self.numbers = {name: array("q", self.labels.encode(part.labels)) for name, part in self.parts.items()}
        self.unknown: dict[str, tuple[int, int]] = {}
        self.items, self.lengths = {}, {}
        for name, part in self.parts.items():
            sequences, self.lengths[name] = self._encode(name, part) if part.text else self._check(name, part)
            self.items[name] = Zip(sequences, self.numbers[name])

    @classmethod
    def from_config(
        cls, config: ExamplesConfig, tokenizer: TextTokenizer | None = None, labels: Symbols | None = None
    ) -> Examples:
        """Return the examples that a configuration describes."""
        if config.train is None:
            raise DataError("no training examples given; name them with --train FILE")
        only_for_folders(config.train, size=config.size, patch=config.patch)
        errors = ErrorPolicy(config.malformed)
        channels = channels_of(config.train)
        parts = {"train": read_part(config.train, config.train_labels, config, errors, channels)}
        for name in ("valid", "test"):
            if (path := getattr(config, name)) is not None:
                parts[name] = read_part(path, getattr(config, f"{name}_labels"), config, errors, channels)
        data = cls(with_held_out(parts, config.hold_out, Part.take), config, tokenizer, labels, errors)
        data.held_out = data.items.keys() - parts.keys()
        return data

    @classmethod
    def of(cls, train: Any, valid: Any = None, test: Any = None, config: ExamplesConfig | None = None) -> Examples:
        """Return examples that are in memory, each split in any of the forms that `everloop.data.in_memory` reads.

        Args:
            train, valid, test: pairs (sequences, labels) of lists or arrays, where a sequence is a text or numbers
                [T, F]; frames of pandas or polars; datasets of Hugging Face or PyTorch. What validation and test lack
                is taken from training, as `hold_out` of the configuration says.
            config: how they are read: `text` and `label` are the columns of a frame.

        Raises:
            DataError: a split is none of these, or lacks something.
        """
        config = config or ExamplesConfig()
        given = {"train": train, "valid": valid, "test": test}
        parts = {name: _part_of(some, config) for name, some in given.items() if some is not None}
        return cls(with_held_out(parts, config.hold_out, Part.take), config)

    def _check(self, split: str, part: Part) -> tuple[Sequence[Any], Array]:
        """Return the features of each example, and its steps."""
        wrong = next((s.shape[1] for s in part if s.shape[1] != self.features), None)
        if wrong is not None:
            raise DataError(f"a {split} series has {wrong} channels; expected {self.features}")
        lengths = np.array([len(series) for series in part])
        if not lengths.all():
            raise DataError(f"{split}, example {lengths.argmin() + 1} has no step; expected at least one")
        return Mapped(range(len(part)), part.get), lengths

    def _encode(self, split: str, part: Part) -> tuple[Sequence[Any], Array]:
        """Return the numbers of each text, and its steps; count the unknown symbols."""
        assert self.tokenizer is not None, "texts have a tokenizer"
        encoded, unknowns = RaggedArray(), 0
        for text in part:
            numbers = self.tokenizer.encode(text, self.config.max_length)
            unknowns += numbers.count(UNKNOWN)
            encoded.append(numbers)
        self.unknown[split] = unknowns, len(encoded.all)
        return encoded, encoded.lengths

    def content(self) -> Iterator[bytes]:
        known = self.tokenizer.symbols.symbols if self.tokenizer else self.features
        described = (known, self.labels.symbols, [(name, part.digest) for name, part in self.parts.items()])
        yield repr(described).encode("utf-8", "replace")
        yield from (numbers.tobytes() for numbers in self.numbers.values())

    def augment(self, items: list[tuple[Any, int]], seed: int) -> list[tuple[Any, int]]:
        if not (shift := self.config.shift):
            return items
        generator = torch.Generator().manual_seed(seed)
        steps = torch.randint(-shift, shift + 1, (len(items), 2), generator=generator).tolist()
        return [(moved(x, down, right), y) for (x, y), (down, right) in zip(items, steps, strict=True)]

    def collate(self, items: Sequence[tuple[Any, int]]) -> ExamplesBatch:
        x, lengths = padded([x for x, _ in items])
        return ExamplesBatch(x if self.features else x.long(), lengths, torch.tensor([y for _, y in items]))

    def unknown_counts(self, split: str) -> Sequence[str]:
        if not self.tokenizer:
            return ()
        few, of = self.unknown[split]
        return (f"{few:,} of {of:,} {self.tokenizer.units} unknown ({few / max(of, 1):.2%})",)

    def notes(self, batch: int) -> list[str]:
        told = [self.read_as] if self.read_as else []
        if len(self.labels) == 1:
            told.append(f"all examples have the label {self.labels.symbols[0]!r}: there is nothing to tell apart")
        return [*told, *super().notes(batch)]

    def first(self, split: str) -> str:
        part = self.parts[split]
        sequence = part.get(0)
        shown = shortened(sequence) if part.text else f"{len(sequence)} steps of {self.features} numbers"
        return f"{shown}, label {part.labels[0]!r}"

    def summary(self) -> str:
        return f"{len(self.labels)} labels"


def read_part(
    path: Path, labels: Path | None, config: ExamplesConfig, errors: ErrorPolicy, channels: int | None = None
) -> Part:
    """Return the examples of one file or folder; `channels` are those of training's pictures."""
    texts, series, found, digest = Strings(), list[Tensor](), list[str](), hashlib.sha256()
    check_size(config.size, config.patch)
    if config.shift and config.format != "idx" and not (config.format == "auto" and is_idx(path)):
        raise OptionError(f"shift is for IDX images; leave it out for {path}")
    fields = Fields(
        config.text, config.label, config.lengths, config.columns, labels, config.size, config.patch, channels
    )
    raw, lines = None, array("q")
    for sequence, label, raw, line in read_examples(FileSource(path, errors, config.header), config.format, fields):
        lines.append(line)
        if isinstance(sequence, str):
            texts.append(sequence)
            # where a format says nothing else, the digest is that of repr() of the list of texts
            shown = f"{', ' if found else '['}{sequence!r}" if raw is None else ""
            digest.update(raw or shown.encode("utf-8", "replace"))
        else:
            series.append(sequence)
            digest.update(sequence.numpy().tobytes())
        found.append(sys.intern(label))  # once in memory, however often it occurs
    if len(texts) and raw is None:
        digest.update(b"]")
    sequences: Sequence[Any] = texts if len(texts) else series
    known = any(lines) and not path.is_dir()
    place = str(path) if known else ""
    part = Part(sequences.__getitem__, found, len(texts) > 0, digest.hexdigest(), place, lines if known else ())
    if config.columns and config.header == "auto" and raw is not None:
        _ask_for_header(part)
    return part


def _part_of(source: Any, config: ExamplesConfig) -> Part:
    """Return examples that are in memory."""
    sequences, labels = pairs(source, config.text, config.label)
    is_text, digest = bool(sequences) and isinstance(sequences[0], str), hashlib.sha256()
    for each in sequences:
        shown = each if isinstance(each, str) else f"{list(each.shape)}"
        digest.update(shown.encode("utf-8", "replace") + b"\0")
        digest.update(b"" if isinstance(each, str) else each.numpy().tobytes())
    return Part(sequences.__getitem__, labels, is_text, digest.hexdigest())


def _learned(labels: Sequence[str]) -> Symbols:
    """Return the labels of training.

    Raises:
        DataError: nearly every example has one of its own, as if texts had been taken for labels.
    """
    found = Symbols(sorted(set(labels)))
    if len(labels) > 4 and len(found) > 0.9 * len(labels):
        raise DataError(
            f"{len(labels):,} training examples have {len(found):,} different labels, one is "
            f"{shortened(found.symbols[0])}; expected labels that repeat: say which column holds them with --label"
        )
    return found


def _ask_for_header(part: Part) -> None:
    """Check that the first line of a table without header is an example.

    Raises:
        DataError: its label is the only one that occurs once; the names of columns look like this.
    """
    first, counts = part.labels[0], Counter(part.labels)
    if counts[first] == 1 and sum(count == 1 for count in counts.values()) == 1 and len(counts) > 1:
        raise DataError(
            f"{part.place}: line {part.lines[0]} is {shortened(part.get(0))} with label {first!r}, which no other has; "
            "is it a header? Say --header yes if it is, --header no if it is an example"
        )
