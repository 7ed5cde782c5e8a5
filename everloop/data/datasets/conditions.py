"""Texts, each with what it is written from: a label (a name with its language), a vector, or a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everloop.data.batching.batch import Batch, sequence_mask
from everloop.data.batching.padding import padded
from everloop.data.dataset import SequenceDataset, hold_out, shortened, with_held_out
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.in_memory import given_texts
from everloop.data.lazy import Mapped, Subset, Zip
from everloop.data.pictures import PictureSize, check_size
from everloop.data.ragged import IntLists, RaggedArray
from everloop.data.readers.arrays import read_vectors
from everloop.data.readers.file_lists import FileColumns
from everloop.data.readers.labelled_texts import beside, captions, read_texts
from everloop.data.readers.pictures import only_for_folders, read_pictures
from everloop.data.tokenize.vocabulary import Vocabulary
from everloop.errors import DataError, OptionError, unknown

Given = str | Tensor


@dataclass(frozen=True)
class ConditionsConfig:
    """Which texts are read, and what each is written from."""

    texts: Path | None = None
    """A folder of text files, the file's name is the label of each line; or a file of lines LABEL TAB TEXT, or a
    table (CSV, TSV with a header, JSON lines, Parquet)."""
    vectors: Path | None = None
    """Instead of labels: a NumPy file (.npy, .npz) with vectors [N, n]; `texts` is then a file of N lines."""
    pictures: Path | None = None
    """Instead of labels: a NumPy file (.npy, .npz) with pictures [N, height, width] or [N, height, width, channels];
    `texts` is then a file of N lines. Or a folder of PNG and JPEG files; `texts` is then lines PICTURE TAB TEXT, or a
    table (CSV, TSV with a header, JSON lines, Parquet)."""
    label_column: str = "label"
    """Texts in a table: the column that holds the label."""
    file_column: str = "file"
    """Texts in a table, of pictures: the column that names the file."""
    text_column: str = "text"
    """Texts in a table: the column that holds the text."""
    size: tuple[int, ...] = ()
    """Height and width to which the pictures of a folder are scaled; by default they must all have the same."""
    array: str = ""
    """Name of the array in an .npz file of vectors or pictures; not needed where there is one alone."""
    hold_out: float = 0.1
    """Fraction of the texts, drawn at random, that is kept for validation."""
    malformed: Malformed = "stop"
    """What to do with a line without a label or a text."""


@dataclass(frozen=True)
class ConditionsBatch(Batch):
    """A batch of texts. given: labels [B], vectors [B, n] or pictures; inputs and targets: [T, B] of `lengths` [B].

    The number after the last symbol begins the inputs and ends the targets.
    """

    batch_first = ("given",)
    given: Tensor
    inputs: Tensor
    targets: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """Where there is a target and no padding, bool [T, B]."""
        return sequence_mask(self.lengths, len(self.targets))


class Conditions(SequenceDataset[tuple[Tensor, list[int]], ConditionsBatch]):
    """Texts with a label, a vector or a picture each. An item is (label number or what else, symbols of the text).

    Args:
        train, valid, test: (label, vector or picture, text) pairs; all but one may be empty. A picture is
            [height, width, channels] of whole numbers from 0 to 255.
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
        self.given_size: int | PictureSize | None = None
        if not isinstance(first, str):
            self.given_size = PictureSize.of(first) if first.dim() == 3 else len(first)
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
        if config.vectors and config.pictures:
            raise OptionError("both --vectors and --pictures were given; expected one of them, or neither for labels")
        check_size(config.size)
        only_for_folders(config.pictures, size=config.size)
        columns = "--label-column" if config.pictures is None else "--file-column"
        advice = f"say which ones they are ({columns}, --text-column)"
        errors = ErrorPolicy(config.malformed, column_advice=advice, header_advice="")
        pairs = read_pairs(config.texts, config, errors)
        valid, train = (Subset(pairs, indices) for indices in hold_out(len(pairs), [config.hold_out]))
        data = cls(train, valid, config, labels, vocabulary, errors=errors)
        data.held_out = {"valid"}
        return data

    @classmethod
    def of(
        cls,
        train: Any,
        valid: Any = None,
        test: Any = None,
        config: ConditionsConfig | None = None,
        given: str = "",
    ) -> Conditions:
        """Return texts that are in memory, each split in any of the forms that `everloop.data.in_memory` reads.

        Args:
            train, valid, test: pairs (what is given, texts) of lists or arrays; frames of pandas or polars; datasets of
                Hugging Face or PyTorch. What validation lacks is taken from training, as `hold_out` says.
            config: how they are read: `text_column` is the column of the texts.
            given: the column of vectors or pictures; by default `label_column`, that of labels.

        Raises:
            DataError: a split is none of these, or lacks something.
        """
        config = config or ConditionsConfig()
        given = given or config.label_column
        splits = {"train": train, "valid": valid}
        parts: dict[str, Sequence[tuple[Given, str]]] = {
            name: given_texts(some, given, config.text_column) for name, some in splits.items() if some is not None
        }
        parts = with_held_out(parts, (config.hold_out,), Subset)
        tests = () if test is None else given_texts(test, given, config.text_column)
        return cls(parts["train"], parts.get("valid", ()), config, test=tests)

    def _encode(self, name: str, pairs: Sequence[tuple[Given, str]]) -> Zip[Tensor, list[int]]:
        size, texts = self.given_size, IntLists()
        given = RaggedArray("int64" if size is None else "uint8" if isinstance(size, PictureSize) else "float32")
        for number, (what, text) in enumerate(pairs, 1):
            place = f"{name}, text {number}"
            if isinstance(what, str) and what not in self._number:
                self.errors.refuse(f"{place}: {unknown('label', what, self.labels)}", "a label of training")
                continue
            given.append([self._number[what]] if isinstance(what, str) else self._flat(what, place))
            texts.append(self.vocabulary.encode(text, place).tolist())
        self.lengths[name] = texts.rows.lengths + 1  # the last symbol ends the text
        if isinstance(size, PictureSize):
            return Zip(Mapped(given, partial(_picture, size)), texts)
        return Zip(Mapped(given, _scalar) if size is None else given, texts)

    def _flat(self, given: Tensor, place: str) -> Tensor:
        """Return the numbers of a vector or of a picture, which has the size of the first."""
        size = self.given_size
        if isinstance(size, PictureSize) and tuple(given.shape) != (size.height, size.width, size.channels):
            came = f"{place}: a picture is {'×'.join(map(str, given.shape))}, the first is {size}"
            raise DataError(f"{came}; expected one size (--size scales those of a folder)")
        return given.flatten()

    def content(self) -> Iterator[bytes]:
        yield repr((self.labels, self.vocabulary.symbols)).encode("utf-8", "replace")
        for name, items in self.items.items():
            for given, numbers in items:
                known = given.numpy().tobytes().hex() if given.dim() == 3 else given.tolist()
                yield f"{name} {known} {numbers}".encode()

    def collate(self, items: Sequence[tuple[Tensor, list[int]]]) -> ConditionsBatch:
        end, (given, texts) = len(self.vocabulary), zip(*items, strict=True)
        inputs, lengths = padded([[end, *text] for text in texts])
        targets, _ = padded([[*text, end] for text in texts])
        return ConditionsBatch(torch.stack(given), inputs, targets, lengths)

    def first(self, split: str) -> str:
        given, numbers = self[split][0]
        name = f"label {self.labels[int(given)]!r}" if self.labels else f"a {self._given}"
        return f"{name}, {shortened(self.vocabulary.decode(numbers))}"

    def sizes(self, split: str) -> Sequence[str]:
        return (f"{self.lengths[split].sum():,} symbols",)

    def summary(self) -> str:
        kind = f"{len(self.labels)} labels" if self.labels else self._given
        return f"{kind}, {len(self.vocabulary)} characters"

    @property
    def _given(self) -> str:
        size = self.given_size
        return f"picture of {size}" if isinstance(size, PictureSize) else f"vector of {size} numbers"


def read_pairs(
    texts: Path, config: ConditionsConfig, errors: ErrorPolicy, size: PictureSize | None = None
) -> Sequence[tuple[Given, str]]:
    """Return texts, each with its label, or the vector or picture that a configuration names.

    Args:
        texts: what is written.
        config: where vectors or pictures are, if there are any.
        errors: takes malformed lines.
        size: that of the pictures of a trained model, to which those of a folder are scaled.
    """
    if config.vectors:
        return beside(texts, read_vectors(config.vectors, config.array), config.vectors, errors)
    if config.pictures is None:
        return read_texts(texts, errors, FileColumns(config.label_column, config.text_column))
    if not config.pictures.is_dir():
        return beside(texts, read_pictures(config.pictures, config.array), config.pictures, errors)
    sides, channels = ((size.height, size.width), size.channels) if size else (config.size, None)
    return captions(
        texts, config.pictures, sides, channels, errors, FileColumns(config.file_column, config.text_column)
    )


def _scalar(row: Tensor) -> Tensor:
    return row[0]


def _picture(size: PictureSize, row: Tensor) -> Tensor:
    return row.view(size.height, size.width, size.channels)
