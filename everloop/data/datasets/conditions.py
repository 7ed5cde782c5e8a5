"""Texts, each with what it is written from: a label (a name with its language) or a vector (a caption's image)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from everloop.data.batching.batch import Batch, sequence_mask
from everloop.data.batching.padding import padded
from everloop.data.dataset import SequenceDataset, hold_out, shortened
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.lazy import Mapped, Subset, Zip
from everloop.data.ragged import IntLists, RaggedArray
from everloop.data.readers.labelled_texts import read_texts
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
    """Fraction of the texts, drawn at random, that is kept for validation."""
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
    def mask(self) -> Tensor:
        """Where there is a target and no padding, bool [T, B]."""
        return sequence_mask(self.lengths, len(self.targets))


class Conditions(SequenceDataset[tuple[Tensor, list[int]], ConditionsBatch]):
    """Texts with a label or a vector each. An item is (label number or vector, symbol numbers of the text).

    Args:
        train, valid, test: (label or vector, text) pairs; all but one may be empty.
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
        pairs = read_texts(config.texts, config.vectors, config.array, errors)
        valid, train = (Subset(pairs, indices) for indices in hold_out(len(pairs), [config.hold_out]))
        return cls(train, valid, config, labels, vocabulary, errors=errors)

    def _encode(self, name: str, pairs: Sequence[tuple[Given, str]]) -> Zip[Tensor, list[int]]:
        given, texts = RaggedArray("int64" if self.given_size is None else "float32"), IntLists()
        for number, (what, text) in enumerate(pairs, 1):
            place = f"{name}, text {number}"
            if isinstance(what, str) and what not in self._number:
                self.errors.refuse(f"{place}: {unknown('label', what, self.labels)}", "a label of training")
                continue
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

    def first(self, split: str) -> str:
        given, numbers = self[split][0]
        name = f"label {self.labels[int(given)]!r}" if self.labels else f"a vector of {self.given_size} numbers"
        return f"{name}, {shortened(self.vocabulary.decode(numbers))}"

    def sizes(self, split: str) -> Sequence[str]:
        return (f"{self.lengths[split].sum():,} symbols",)

    def summary(self) -> str:
        kind = f"{len(self.labels)} labels" if self.labels else f"vectors of {self.given_size}"
        return f"{kind}, {len(self.vocabulary)} characters"


def _scalar(row: Tensor) -> Tensor:
    return row[0]
