"""Texts, each with what it is written from: a label (a name with its language) or a vector (a caption's image)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from everloop.data.buckets import buckets, padding_share
from everloop.data.faults import Faults, Malformed
from everloop.data.files import find_files
from everloop.data.padding import Pass, padded
from everloop.data.parallel import read_lines
from everloop.data.vocabulary import Vocabulary
from everloop.errors import DataError, OptionError, unknown

Given = str | Tensor


@dataclass(frozen=True)
class ConditionsConfig:
    """Which texts are read, and what each is written from."""

    texts: Path | None = None
    """A folder of text files, the file's name is the label of each line; or a file of lines LABEL TAB TEXT."""
    vectors: Path | None = None
    """Instead of labels: a NumPy file (.npy) [N, n] of vectors; `texts` is then a file of N lines."""
    hold_out: float = 0.1
    """Share of the texts, drawn at random, that is kept for validation."""
    malformed: Malformed = "stop"
    """What to do with a line without a label or a text."""


@dataclass(frozen=True)
class Conditioned:
    """A batch of texts. given: labels [B] or vectors [B, n]; inputs and targets: [T, B] of `lengths` [B].

    The number after the last symbol begins the inputs and ends the targets.
    """

    given: Tensor
    inputs: Tensor
    targets: Tensor
    lengths: Tensor
    first: bool = True

    def to(self, device: torch.device | str) -> Conditioned:
        """Return the batch on a device."""
        given, lengths = self.given.to(device), self.lengths.to(device)
        return Conditioned(given, self.inputs.to(device), self.targets.to(device), lengths)

    @property
    def exists(self) -> Tensor:
        """Where there is a target and no padding, bool [T, B]."""
        return torch.arange(len(self.targets), device=self.lengths.device)[:, None] < self.lengths


class Conditions:
    """Texts with a label or a vector each, for training and validation.

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
        everything = [*train, *valid, *test]
        if not everything:
            raise DataError("there are no texts; expected at least one")
        self.config, self.faults = config or ConditionsConfig(), Faults()
        first = everything[0][0]
        self.given_size = None if isinstance(first, str) else len(first)
        self.labels = tuple(labels or sorted({given for given, _ in train if isinstance(given, str)}))
        self.vocabulary = vocabulary or Vocabulary.of("".join(text for _, text in everything))
        self._number = {label: number for number, label in enumerate(self.labels)}
        parts = {"train": train, "valid": valid, "test": test}
        self.parts = {name: [self._encode(*pair) for pair in pairs] for name, pairs in parts.items() if pairs}

    @classmethod
    def from_config(
        cls, config: ConditionsConfig, labels: Sequence[str] | None = None, vocabulary: Vocabulary | None = None
    ) -> Conditions:
        """Return the texts that a configuration describes; which are held for validation is always the same."""
        if config.texts is None:
            raise DataError("no texts given; name a folder or a file with --texts")
        if not 0 <= config.hold_out < 1:
            raise OptionError(f"hold_out is {config.hold_out}; expected a share below 1")
        faults = Faults(config.malformed)
        pairs = read_texts(config, faults)
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).tolist()
        count = round(len(pairs) * config.hold_out)
        train, valid = [pairs[i] for i in order[count:]], [pairs[i] for i in order[:count]]
        data = cls(train, valid, config, labels, vocabulary)
        data.faults = faults
        return data

    def _encode(self, given: Given, text: str) -> tuple[Tensor, list[int]]:
        if isinstance(given, str):
            if given not in self._number:
                raise DataError(unknown("label", given, self.labels))
            number = torch.tensor(self._number[given])
        else:
            number = torch.as_tensor(given, dtype=torch.float32)
        return number, self.vocabulary.encode(text, "a text").tolist()

    @property
    def splits(self) -> tuple[str, ...]:
        """The parts that there are."""
        return tuple(self.parts)

    @property
    def fingerprint(self) -> str:
        """A short name of exactly these texts."""
        digest = hashlib.sha256(repr((self.labels, self.vocabulary.symbols)).encode("utf-8", "replace"))
        for name, pairs in self.parts.items():
            for given, numbers in pairs:
                digest.update(f"{name} {given.tolist()} {numbers}".encode())
        return digest.hexdigest()[:16]

    def epoch(self, split: str, number: int, *, batch: int, length: int = 0, seed: int = 0) -> Pass[Conditioned]:
        """Return the batches of one pass: texts of about the same length together, in training shuffled anew."""
        if split not in self.parts:
            raise OptionError(unknown("part of the data", split, self.parts))
        pairs, stop = self.parts[split], len(self.vocabulary)
        order = seed * 1_000_003 + number if split == "train" else None
        chosen = buckets([len(numbers) + 1 for _, numbers in pairs], batch, seed=order, padding=0.2)

        def make(group: list[int]) -> Conditioned:
            given = torch.stack([pairs[i][0] for i in group])
            inputs, lengths = padded([[stop, *pairs[i][1]] for i in group])
            targets, _ = padded([[*pairs[i][1], stop] for i in group])
            return Conditioned(given, inputs, targets, lengths)

        return Pass(chosen, make)

    def notes(self, batch: int) -> list[str]:
        """Return what one should know of the data: sizes, padding, malformed lines."""
        lines = []
        for name, pairs in self.parts.items():
            lengths = [len(numbers) + 1 for _, numbers in pairs]
            order = 0 if name == "train" else None
            share = padding_share(buckets(lengths, batch, seed=order, padding=0.2), lengths)
            lines.append(f"{name}: {len(pairs):,} texts, {sum(lengths):,} symbols, padding {share:.1%}")
        return [*lines, str(self.faults)] if self.faults.skipped else lines

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {len(pairs):,}" for name, pairs in self.parts.items())
        kind = f"{len(self.labels)} labels" if self.labels else f"vectors of {self.given_size}"
        return f"Conditions({counts} texts, {kind}, {len(self.vocabulary)} characters)"


def read_texts(config: ConditionsConfig, faults: Faults) -> list[tuple[Given, str]]:
    """Return the texts that a configuration names, each with its label or vector."""
    return _with_vectors(config) if config.vectors else _with_labels(config, faults)


def _with_labels(config: ConditionsConfig, faults: Faults) -> list[tuple[Given, str]]:
    assert config.texts is not None, "checked before"
    if config.texts.is_dir():
        files = find_files([config.texts])
        return [(file.stem, line.strip()) for file in files for line in read_lines(file) if line.strip()]
    pairs: list[tuple[Given, str]] = []
    for number, line in enumerate(read_lines(config.texts), 1):
        label, tab, text = line.partition("\t")
        if tab and label.strip() and text.strip():
            pairs.append((label.strip(), text.strip()))
        elif line.strip():
            faults(config.texts, number, repr(line), "LABEL TAB TEXT")
    return pairs


def _with_vectors(config: ConditionsConfig) -> list[tuple[Given, str]]:
    assert config.texts is not None, "checked before"
    assert config.vectors is not None, "checked before"
    if not config.vectors.is_file():
        raise DataError(f"{config.vectors}: there is no such file of vectors")
    try:
        vectors = np.load(config.vectors, allow_pickle=False)
    except ValueError as error:
        raise DataError(f"{config.vectors} is no NumPy file: {error}") from None
    lines = read_lines(config.texts)
    if vectors.ndim != 2 or len(vectors) != len(lines):
        raise DataError(
            f"{config.vectors} holds {list(vectors.shape)} and {config.texts} has {len(lines):,} lines; "
            "expected one row of numbers a line"
        )
    return [(torch.from_numpy(row.astype(np.float32)), line) for row, line in zip(vectors, lines, strict=True)]
