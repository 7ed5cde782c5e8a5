"""Two parallel text files: line n of one is the translation of line n of the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from everloop.data.batching.batch import Batch, sequence_mask
from everloop.data.batching.padding import padded_numbers
from everloop.data.dataset import SequenceDataset, shortened, with_held_out
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.lazy import Subset, Zip, repr_of_list
from everloop.data.ragged import IntLists
from everloop.data.readers.parallel import read_pairs
from everloop.data.settings import setting
from everloop.data.tokenize.pieces import BEGIN, END, UNKNOWN, Pieces
from everloop.errors import DataError


@dataclass(frozen=True)
class ParallelConfig:
    """Which parallel files are read, and how."""

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
        if config.source is None or config.target is None:
            raise DataError("no parallel files given; name them with --source FILE --target FILE")
        if (config.valid_source is None) != (config.valid_target is None):
            raise DataError("one validation file is missing; expected --valid-source and --valid-target")
        errors = ErrorPolicy(config.malformed)
        given = {"train": read_pairs(config.source, config.target, errors)}
        if config.valid_source and config.valid_target:
            given["valid"] = read_pairs(config.valid_source, config.valid_target, errors)
        parts = with_held_out(given, (config.hold_out,), Subset)
        data = cls(parts["train"], parts.get("valid", ()), config, pieces, errors=errors)
        data.held_out = parts.keys() - given.keys()
        return data

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
