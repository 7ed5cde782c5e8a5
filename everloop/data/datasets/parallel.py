"""Pairs of sentences: two text files, of which line n of one is the translation of line n of the other, or a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from everloop.data.batching.batch import Batch, sequence_mask
from everloop.data.batching.padding import padded_numbers
from everloop.data.dataset import SequenceDataset, shortened, with_held_out
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.in_memory import sides
from everloop.data.lazy import Subset, Zip, repr_of_list
from everloop.data.ragged import IntLists, Strings
from everloop.data.readers.formats import read_rows
from everloop.data.readers.parallel import read_pairs
from everloop.data.readers.source import FileSource, Header
from everloop.data.settings import setting
from everloop.data.tokenize.pieces import BEGIN, END, UNKNOWN, Pieces
from everloop.errors import DataError, OptionError

COLUMN_ADVICE = "say which ones they are (--source-column, --target-column)"


@dataclass(frozen=True)
class ParallelConfig:
    """Which parallel files, or tables of pairs, are read, and how."""

    source: Path | None = None
    """Training sentences to read, one a line (.gz is unpacked)."""
    target: Path | None = setting(None, old="written")
    """Training sentences to write: line n is the translation of line n."""
    valid_source: Path | None = None
    """Validation sentences to read; without files, `hold_out` says how many."""
    valid_target: Path | None = setting(None, old="valid_written")
    """Validation sentences to write."""
    lower: bool = True
    """Whether everything is written in lower case."""
    min_freq: int = setting(2, old="least")
    """How often a word must occur in training to have a number of its own."""
    merges: int = 0
    """Joins of byte-pair encoding in each language; 0: words are whole."""
    hold_out: float = setting(0.05, absent=0.0)
    """Fraction of the training pairs, drawn at random, that is kept for validation where there are no files for it."""
    max_length: int = setting(100, old="longest")
    """Training pairs with more pieces than this on either side are left out."""
    malformed: Malformed = "stop"
    """What to do with a pair of which one line is empty."""
    train: Path | None = None
    """Training pairs in one file, in place of `source` and `target`: a table (TSV, CSV, JSON lines, Parquet; .gz is
    unpacked) with a column for each side."""
    valid: Path | None = None
    """Validation pairs in one such file."""
    format: str = "auto"
    """What such files are: tsv, csv, semicolons, jsonl, json or parquet; by default as their names end."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a TSV or CSV file that has no header."""
    header: Header = "auto"
    """Whether the first line of a TSV or CSV file names its columns; auto: it does where there are no `columns`, or
    where it has the same names."""
    source_column: str = "source"
    """The column of the sentences to read."""
    target_column: str = "target"
    """The column of the sentences to write."""


@dataclass(frozen=True)
class ParallelBatch(Batch):
    """A batch of pairs. source: [S, B]; inputs and targets: [T, B], the target from begin on, and as far as end.

    `source_lengths` and `lengths` are [B]; padding is number 0.
    """

    source: Tensor
    source_lengths: Tensor
    inputs: Tensor
    targets: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """Where there is a target and no padding, bool [T, B]."""
        return sequence_mask(self.lengths, len(self.targets))


Pair = tuple[list[int], list[int]]


class Parallel(SequenceDataset[Pair, ParallelBatch]):
    """Pairs of sentences, with the pieces of both languages. An item is (source, target), numbers of pieces.

    Args:
        train, valid, test: pairs (source sentence, target sentence); all but `train` may be empty, and with `pieces`
            that too.
        config: how they are read.
        pieces: the pieces of both languages, for instance of a trained model; by default learned from `train`.

    Raises:
        DataError: there are no pairs.
    """

    unit = "pairs"

    def __init__(
        self,
        train: Sequence[tuple[str, str]],
        valid: Sequence[tuple[str, str]] = (),
        config: ParallelConfig | None = None,
        pieces: tuple[Pieces, Pieces] | None = None,
        test: Sequence[tuple[str, str]] = (),
        errors: ErrorPolicy | None = None,
    ) -> None:
        super().__init__(config or ParallelConfig(), errors)
        if not (len(train) or (pieces and len(test))):
            raise DataError("there are no pairs to train on; expected at least one")
        self.sentences = {"train": train, "valid": valid, "test": test}
        if pieces is None:
            pieces = self._learn(a for a, _ in train), self._learn(b for _, b in train)
        self.source, self.target = pieces
        self.sides = {name: self._encode(pairs, name) for name, pairs in self.sentences.items() if len(pairs)}
        self.items = {name: Zip(*sides) for name, sides in self.sides.items()}
        self.lengths = {name: a.rows.lengths + b.rows.lengths for name, (a, b) in self.sides.items()}
        if len(train) and not len(self.items["train"]):
            raise DataError(f"every training pair is longer than {self.config.max_length} pieces; raise max_length")

    @classmethod
    def from_config(cls, config: ParallelConfig, pieces: tuple[Pieces, Pieces] | None = None) -> Parallel:
        """Return the pairs that a configuration describes."""
        sides = {"train": (config.source, config.target), "valid": (config.valid_source, config.valid_target)}
        for name, files in sides.items():
            pre = "" if name == "train" else "valid-"
            if getattr(config, name) and any(files):
                raise OptionError(f"--{name} is a file of pairs, and --{pre}source or --{pre}target is given too")
            if (files[0] is None) != (files[1] is None):
                raise DataError(
                    f"of two files one is missing; expected --{pre}source and --{pre}target, or a table of both, "
                    f"--{name}"
                )
        if config.train is None and config.source is None:
            raise DataError(
                "no parallel files given; name them with --source FILE --target FILE, or a table of pairs with --train "
                "FILE"
            )
        errors = ErrorPolicy(config.malformed, column_advice=COLUMN_ADVICE)
        given = {}
        for name, (source, target) in sides.items():
            if source and target:
                given[name] = read_pairs(source, target, errors)
            elif table := getattr(config, name):
                given[name] = read_table_of_pairs(table, config, errors)
        parts = with_held_out(given, (config.hold_out,), Subset)
        data = cls(parts["train"], parts.get("valid", ()), config, pieces, errors=errors)
        data.held_out = parts.keys() - given.keys()
        return data

    @classmethod
    def of(cls, train: Any, valid: Any = None, test: Any = None, config: ParallelConfig | None = None) -> Parallel:
        """Return pairs that are in memory, each split in any of the forms that `everloop.data.in_memory` reads.

        Args:
            train, valid, test: a list of pairs, or two lists; frames of pandas or polars; datasets of Hugging Face or
                PyTorch. What validation lacks is taken from training, as `hold_out` of the configuration says.
            config: how they are read: `source_column` and `target_column` are the columns of a frame.

        Raises:
            DataError: a split is none of these, or lacks something.
        """
        config = config or ParallelConfig()
        given = {"train": train, "valid": valid}
        parts = {name: _in_memory(some, config) for name, some in given.items() if some is not None}
        parts = with_held_out(parts, (config.hold_out,), Subset)
        tests = () if test is None else _in_memory(test, config)
        return cls(parts["train"], parts.get("valid", ()), config, test=tests)

    def _learn(self, sentences: Iterable[str]) -> Pieces:
        config = self.config
        return Pieces.learn(sentences, min_freq=config.min_freq, merges=config.merges, lower=config.lower)

    def _encode(self, pairs: Iterable[tuple[str, str]], split: str) -> tuple[IntLists, IntLists]:
        max_length = self.config.max_length if split == "train" else None
        left, right = IntLists(), IntLists()
        for source, target in pairs:
            a, b = self.source.encode(source), self.target.encode(target)
            if max_length is None or max(len(a), len(b)) <= max_length:
                left.append(a)
                right.append(b)
        return left, right

    def content(self) -> Iterator[bytes]:
        yield repr((self.source.symbols, self.target.symbols)).encode()
        # what repr() of a dictionary of lists of pairs is
        for i, (name, pairs) in enumerate(self.items.items()):
            yield f"{', ' if i else '{'}{name!r}: ".encode()
            yield from (chunk.encode() for chunk in repr_of_list(pairs))
        yield b"}"

    def collate(self, items: Sequence[Pair]) -> ParallelBatch:
        source, source_lengths = padded_numbers([[*a, END] for a, _ in items])
        inputs, lengths = padded_numbers([[BEGIN, *b] for _, b in items])
        targets, _ = padded_numbers([[*b, END] for _, b in items])
        return ParallelBatch(source, source_lengths, inputs, targets, lengths)

    def first(self, split: str) -> str:
        source, target = self.sentences[split][0]
        return f"{shortened(source)} and {shortened(target)}"

    def sizes(self, split: str) -> Sequence[str]:
        return (f"{self.lengths[split].sum():,} pieces",)

    def unknown_counts(self, split: str) -> Sequence[str]:
        source, target = (side.rows.count(UNKNOWN) for side in self.sides[split])
        return (f"unknown {source:,} in the source and {target:,} in the target",)

    def summary(self) -> str:
        return f"{self.source!r} to {self.target!r}"


def read_table_of_pairs(path: Path, config: ParallelConfig, errors: ErrorPolicy) -> Sequence[tuple[str, str]]:
    """Return the pairs of a table; a pair of empty cells is passed over."""
    names = config.source_column, config.target_column
    if names[0] == names[1]:
        raise OptionError(f"source_column and target_column are both {names[0]!r}; expected two columns")
    left, right = Strings(), Strings()
    source = FileSource(path, errors, config.header)
    for line, _, row in read_rows(source, dict.fromkeys(names, "text"), config.columns, config.format):
        a, b = (" ".join(row[name].splitlines()) for name in names)
        if a.strip() and b.strip():
            left.append(a)
            right.append(b)
        elif a.strip() or b.strip():
            empty = names[1] if a.strip() else names[0]
            errors.report(path, line, f"{empty} is empty", "the translation of a sentence that is not")
    return Zip(left, right)


def _in_memory(source: Any, config: ParallelConfig) -> Sequence[tuple[str, str]]:
    """Return pairs that are in memory."""
    found = list(zip(*sides(source, config.source_column, config.target_column), strict=True))
    wrong = next((i for i, pair in enumerate(found) if not all(isinstance(side, str) for side in pair)), None)
    if wrong is not None:
        raise DataError(f"pair {wrong + 1} is {found[wrong]!r}; expected two texts")
    return found
