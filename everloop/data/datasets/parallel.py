"""Two parallel text files: line n of one is the translation of line n of the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor

from everloop.data.batching.buckets import buckets, padding_fraction
from everloop.data.batching.padding import Batches, padded
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.lazy import Array, Zip, repr_of_list
from everloop.data.ragged import IntLists, RaggedArray, Strings
from everloop.data.readers.lines import decoded, opened
from everloop.data.settings import setting
from everloop.data.tokenize.pieces import BEGIN, END, UNKNOWN, Pieces
from everloop.errors import DataError, OptionError, unknown

PADDING = 0.2  # largest share in a batch; sentences are short, and a smaller share would make batches small


@dataclass(frozen=True)
class ParallelConfig:
    """Which parallel files are read, and how."""

    source: Path | None = None
    """Training sentences to read, one a line (.gz is unpacked)."""
    target: Path | None = setting(None, old="written")
    """Training sentences to write: line n is the translation of line n."""
    valid_source: Path | None = None
    """Validation sentences to read."""
    valid_target: Path | None = setting(None, old="valid_written")
    """Validation sentences to write."""
    lower: bool = True
    """Whether everything is written in lower case."""
    min_freq: int = setting(2, old="least")
    """How often a word must occur in training to have a number of its own."""
    merges: int = 0
    """Joins of byte-pair encoding in each language; 0: words are whole."""
    max_length: int = setting(100, old="longest")
    """Training pairs with more pieces than this on either side are left out."""
    malformed: Malformed = "stop"
    """What to do with a pair of which one line is empty."""


@dataclass(frozen=True)
class ParallelBatch:
    """A batch of pairs. source: [S, B]; inputs and targets: [T, B], the target from begin on, and as far as end.

    `source_lengths` and `lengths` are [B]; padding is number 0.
    """

    source: Tensor
    source_lengths: Tensor
    inputs: Tensor
    targets: Tensor
    lengths: Tensor
    first: bool = True

    def to(self, device: torch.device | str) -> ParallelBatch:
        """Return the batch on a device."""
        read = self.source.to(device), self.source_lengths.to(device)
        return ParallelBatch(*read, self.inputs.to(device), self.targets.to(device), self.lengths.to(device))

    @property
    def exists(self) -> Tensor:
        """Where there is a target and no padding, bool [T, B]."""
        return torch.arange(len(self.targets), device=self.lengths.device)[:, None] < self.lengths


class Parallel:
    """ParallelBatch of sentences, with the pieces of both languages.

    Args:
        train, valid, test: pairs (source sentence, target sentence); all but `train` may be empty, and with `pieces`
            that too.
        config: how they are read.
        pieces: the pieces of both languages, for instance of a trained model; by default learned from `train`.

    Raises:
        DataError: there are no pairs.
    """

    def __init__(
        self,
        train: Sequence[tuple[str, str]],
        valid: Sequence[tuple[str, str]] = (),
        config: ParallelConfig | None = None,
        pieces: tuple[Pieces, Pieces] | None = None,
        test: Sequence[tuple[str, str]] = (),
    ) -> None:
        if not (len(train) or (pieces and len(test))):
            raise DataError("there are no pairs to train on; expected at least one")
        self.config, self.errors = config or ParallelConfig(), ErrorPolicy()
        self.sentences = {"train": train, "valid": valid, "test": test}
        if pieces is None:
            pieces = self._learn(a for a, _ in train), self._learn(b for _, b in train)
        self.source, self.target = pieces
        self.parts = {name: self._encode(pairs, name) for name, pairs in self.sentences.items() if len(pairs)}
        if len(train) and not len(self.parts["train"]):
            raise DataError(f"every training pair is longer than {self.config.max_length} pieces; raise max_length")

    @classmethod
    def from_config(cls, config: ParallelConfig, pieces: tuple[Pieces, Pieces] | None = None) -> Parallel:
        """Return the pairs that a configuration describes."""
        if config.source is None or config.target is None:
            raise DataError("no parallel files given; name them with --source FILE --target FILE")
        if (config.valid_source is None) != (config.valid_target is None):
            raise DataError("one validation file is missing; expected --valid-source and --valid-target")
        errors = ErrorPolicy(config.malformed)
        train = read_pairs(config.source, config.target, errors)
        valid: Sequence[tuple[str, str]] = ()
        if config.valid_source and config.valid_target:
            valid = read_pairs(config.valid_source, config.valid_target, errors)
        data = cls(train, valid, config, pieces)
        data.errors = errors
        return data

    def _learn(self, sentences: Iterable[str]) -> Pieces:
        config = self.config
        return Pieces.learn(sentences, min_freq=config.min_freq, merges=config.merges, lower=config.lower)

    def _encode(self, pairs: Iterable[tuple[str, str]], part: str) -> Zip[list[int], list[int]]:
        max_length = self.config.max_length if part == "train" else None
        left, right = IntLists(), IntLists()
        for source, target in pairs:
            a, b = self.source.encode(source), self.target.encode(target)
            if max_length is None or max(len(a), len(b)) <= max_length:
                left.append(a)
                right.append(b)
        return Zip(left, right)

    @property
    def splits(self) -> tuple[str, ...]:
        """The parts that there are."""
        return tuple(self.parts)

    @cached_property
    def fingerprint(self) -> str:
        """A short name of exactly these pairs and pieces."""
        digest = hashlib.sha256(repr((self.source.symbols, self.target.symbols)).encode())
        # the same as of repr() of a dictionary of lists of pairs, as runs of earlier versions have it
        for i, (name, pairs) in enumerate(self.parts.items()):
            digest.update(f"{', ' if i else '{'}{name!r}: ".encode())
            for piece in repr_of_list(pairs):
                digest.update(piece.encode())
        digest.update(b"}")
        return digest.hexdigest()[:16]

    def epoch(self, split: str, number: int, *, batch: int, length: int = 0, seed: int = 0) -> Batches[ParallelBatch]:
        """Return the batches of one pass: pairs of about the same length together, in training shuffled anew."""
        if split not in self.parts:
            raise OptionError(unknown("part of the data", split, self.parts))
        pairs = self.parts[split]
        order = seed * 1_000_003 + number if split == "train" else None
        chosen = buckets(self._lengths(split), batch, seed=order, padding=PADDING)
        return Batches(chosen, lambda group: batch_of([pairs[i] for i in group]))

    def _lengths(self, part: str) -> Array:
        left, right = self._sides(part)
        return left.lengths + right.lengths

    def _sides(self, part: str) -> tuple[RaggedArray, RaggedArray]:
        left, right = self.parts[part].left, self.parts[part].right
        assert isinstance(left, IntLists), "made by _encode"
        assert isinstance(right, IntLists), "made by _encode"
        return left.rows, right.rows

    def notes(self, batch: int) -> list[str]:
        """Return what one should know of the data: sizes, unknown words, padding, malformed lines."""
        lines = []
        for name, pairs in self.parts.items():
            lengths = self._lengths(name)
            order = 0 if name == "train" else None
            share = padding_fraction(buckets(lengths, batch, seed=order, padding=PADDING), lengths)
            few = [side.count(UNKNOWN) for side in self._sides(name)]
            lines.append(
                f"{name}: {len(pairs):,} pairs, {lengths.sum():,} pieces, padding {share:.1%}, "
                f"unknown {few[0]:,} in the source and {few[1]:,} in the target"
            )
        return [*lines, str(self.errors)] if self.errors.skipped else lines

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {len(pairs):,}" for name, pairs in self.parts.items())
        return f"Parallel({counts} pairs, {self.source!r} to {self.target!r})"


def batch_of(pairs: Sequence[tuple[list[int], list[int]]]) -> ParallelBatch:
    """Return pairs of numbers as a batch, with begin and end added."""
    source, source_lengths = padded([[*a, END] for a, _ in pairs])
    inputs, lengths = padded([[BEGIN, *b] for _, b in pairs])
    targets, _ = padded([[*b, END] for _, b in pairs])
    return ParallelBatch(source, source_lengths, inputs, targets, lengths)


def read_pairs(source: Path, target: Path, errors: ErrorPolicy) -> Sequence[tuple[str, str]]:
    """Return the pairs of two parallel files; a pair of empty lines is passed over.

    Raises:
        DataError: the files have different numbers of lines, or a line is malformed and stops the reading.
    """
    read, written = Strings(), Strings()
    with opened(source) as left, opened(target) as right:
        for number, lines in enumerate(zip_longest(left, right), 1):
            if None in lines:
                more = number + sum(1 for _ in left) + sum(1 for _ in right)
                counts = (more, number - 1) if lines[1] is None else (number - 1, more)
                raise DataError(
                    f"{source} has {counts[0]:,} lines and {target} has {counts[1]:,}; line n of one is the "
                    "translation of line n of the other, so they must be equally many"
                )
            a, b = (decoded(raw, str(p), number, errors) for raw, p in zip(lines, (source, target), strict=True))
            if a is None or b is None:
                continue
            if a.strip() and b.strip():
                read.append(a)
                written.append(b)
            elif a.strip() or b.strip():
                empty = target if a.strip() else source
                errors.report(empty, number, "an empty line", "the translation of a line that is not")
    return Zip(read, written)
