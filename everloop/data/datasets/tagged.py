"""Tagged sequences: a label, or several, for each step; of words, of vectors, or of pictures."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everloop.data.batching.batch import Batch, sequence_mask
from everloop.data.batching.padding import padded
from everloop.data.dataset import SequenceDataset, shortened, with_held_out
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.in_memory import tagged
from everloop.data.lazy import Array, LazySequence, Mapped, Subset, Zip
from everloop.data.pictures import PictureSize, check_size
from everloop.data.ragged import WordLists
from everloop.data.readers import chorales
from everloop.data.readers.chorales import transposed
from everloop.data.readers.formats import read_tagged
from everloop.data.readers.pictures import channels_of, only_for_folders
from everloop.data.readers.source import Fields, FileSource
from everloop.data.settings import setting
from everloop.data.tokenize.symbols import UNKNOWN, Symbols
from everloop.data.tokenize.words import Words, WordTokenizer
from everloop.errors import DataError, OptionError

Pairs = Sequence[tuple[Any, Any]]


@dataclass(frozen=True)
class TaggedConfig:
    """Which tagged sequences are read, and how."""

    train: Path | None = None
    """Training sequences: CoNLL-U, CoNLL (a word and its tag a line), JSON lines (lists of words and tags), .npz, a
    JSON file of chorales, or a folder of films: labels.tsv with lines FILM TAB LABEL LABEL …, beside a folder of PNG or
    JPEG frames for each."""
    valid: Path | None = None
    """Validation sequences; without a file, `hold_out` says how many."""
    test: Path | None = None
    """Test sequences."""
    format: str = setting("auto", old="form")
    """What the files are: conllu, conll, jsonl, json, parquet, npz, films, or chorales (one file for all splits); by
    default as their names end."""
    columns: tuple[str, ...] = ()
    """Names of all columns of a CoNLL file that has more than a word and its tag, or of a table without a header."""
    text: str = "form"
    """The column or JSON name of the words, or the array of the vectors or films."""
    label: str = "upos"
    """The column, JSON name or array that holds the tags."""
    lengths: str = ""
    """The array that holds the steps of each sequence."""
    size: tuple[int, ...] = ()
    """Height and width to which the frames of a folder are scaled; by default they must all have the same."""
    lower: bool = True
    """Whether words are numbered by their lower case; their characters are read as they are."""
    min_freq: int = setting(2, old="least")
    """How often a word must occur in training to have a number of its own."""
    hold_out: tuple[float, float] = (0.1, 0.0)
    """Fractions of the training sequences taken for validation and test, where there is no file for them."""
    transpose: int = 0
    """Semitones by which training chorales are transposed, at most and at random, up or down."""
    padding: float = 0.1
    """Largest fraction of padding in a batch."""
    malformed: Malformed = "stop"
    """What to do with a malformed line."""


@dataclass(frozen=True)
class TaggedBatch(Batch):
    """Sequences and their tags. x: words, or features [T, B, F], or pictures [T, B, height, width, channels].

    lengths: [B]; y: [T, B], or [T, B, K] of 0 and 1.
    """

    x: Words | Tensor
    lengths: Tensor
    y: Tensor

    @property
    def mask(self) -> Tensor:
        """Where there is a step and no padding, bool [T, B]."""
        return sequence_mask(self.lengths, len(self.y))


class Tagged(SequenceDataset[tuple[Any, Tensor], TaggedBatch]):
    """Tagged sequences. An item is (words, features [T, F] or a film, tag numbers [T] or [T, K]).

    Args:
        splits: by name, pairs (words, tags) of lists of strings, or (features [T, F], tags): numbers [T],
            or 0 and 1 for several labels at once [T, K]. Instead of features a film [T, height, width, channels] of
            whole numbers from 0 to 255.
        config: how words are read and batches are made.
        tokenizer, labels: those of a trained model; by default learned from the training split.

    Raises:
        DataError: there are no sequences, a sequence has fewer tags than steps, a tag is unknown.
    """

    def __init__(
        self,
        splits: dict[str, Pairs],
        config: TaggedConfig | None = None,
        tokenizer: WordTokenizer | None = None,
        labels: Symbols | None = None,
        errors: ErrorPolicy | None = None,
    ) -> None:
        super().__init__(config or TaggedConfig(), errors)
        self.padding = self.config.padding
        self.pairs: dict[str, Pairs] = {name: _filled(pairs) for name, pairs in splits.items() if len(pairs)}
        first = next((pairs[0] for pairs in self.pairs.values() if len(pairs)), None)
        if first is None or ("train" not in self.pairs and labels is None):
            raise DataError("there are no training sequences; expected at least one")
        x, y = first
        self.features: int | PictureSize = 0
        if isinstance(x, Tensor):
            self.features = PictureSize(*x.shape[1:]) if x.dim() == 4 else x.shape[1]
        self.several = isinstance(y, Tensor) and y.dim() == 2
        if not self.features and tokenizer is None:
            words = (words for words, _ in self.pairs["train"])
            tokenizer = WordTokenizer.learn(words, lower=self.config.lower, min_freq=self.config.min_freq)
        self.tokenizer = tokenizer
        self.labels = labels or self._labels(y)
        self.pairs = {name: self._known(name, pairs) for name, pairs in self.pairs.items()}
        self.unknown: dict[str, int] = {}
        self.lengths = {name: self._check(name, pairs) for name, pairs in self.pairs.items()}
        self.items = {name: Mapped(pairs, self._item) for name, pairs in self.pairs.items()}

    @classmethod
    def from_config(
        cls, config: TaggedConfig, tokenizer: WordTokenizer | None = None, labels: Symbols | None = None
    ) -> Tagged:
        """Return the sequences that a configuration describes."""
        if config.train is None:
            raise DataError("no training sequences given; name them with --train FILE")
        if config.transpose < 0:
            raise OptionError(f"transpose is {config.transpose}; expected 0 or more")
        only_for_folders(config.train, size=config.size)
        errors = ErrorPolicy(config.malformed)
        if config.format == "chorales":
            return cls(
                {**chorales.splits(config.train)}, config, tokenizer, labels or Symbols(chorales.PITCHES), errors
            )
        channels = channels_of(config.train)
        splits = {"train": read_part(config.train, config, errors, channels)}
        for name in ("valid", "test"):
            if (path := getattr(config, name)) is not None:
                splits[name] = read_part(path, config, errors, channels)
        data = cls(with_held_out(splits, config.hold_out, _take), config, tokenizer, labels, errors)
        data.held_out = data.items.keys() - splits.keys()
        return data

    @classmethod
    def of(cls, train: Any, valid: Any = None, test: Any = None, config: TaggedConfig | None = None) -> Tagged:
        """Return tagged sequences that are in memory, each split in any of the forms `everloop.data.in_memory` reads.

        Args:
            train, valid, test: pairs (sequences, tags) of lists or arrays, where a sequence is a list of words, a text
                with spaces between them, or numbers [T, F]; frames of pandas or polars; datasets of Hugging Face or
                PyTorch. What validation and test lack is taken from training, as `hold_out` says.
            config: how they are read: `text` and `label` are the columns of a frame.

        Raises:
            DataError: a split is none of these, or lacks something.
        """
        config = config or TaggedConfig()
        given = {"train": train, "valid": valid, "test": test}
        parts: dict[str, Pairs] = {
            name: tagged(some, config.text, config.label) for name, some in given.items() if some is not None
        }
        return cls(with_held_out(parts, config.hold_out, _take), config)

    def _labels(self, y: Any) -> Symbols:
        if self.several:
            return Symbols(map(str, range(y.shape[1])))
        if isinstance(y, Tensor):
            return Symbols(map(str, range(1 + max(int(tags.max()) for _, tags in self.pairs["train"]))))
        return Symbols(sorted({tag for _, tags in self.pairs["train"] for tag in tags}))

    def _numbers(self, tags: Any) -> Tensor:
        if not isinstance(tags, Tensor):
            return torch.tensor(self.labels.encode(tags))
        if self.several and tags.shape[1] != len(self.labels):
            raise DataError(f"a sequence has {tags.shape[1]} labels a step; expected {len(self.labels)}")
        if not self.several and int(tags.max()) >= len(self.labels):
            raise DataError(f"a tag is {int(tags.max())}; training knows 0 to {len(self.labels) - 1}")
        return tags.float() if self.several else tags.long()

    def _item(self, pair: tuple[Any, Any]) -> tuple[Any, Tensor]:
        return pair[0], self._numbers(pair[1])

    def _known(self, split: str, pairs: Pairs) -> Pairs:
        """Return the sequences whose tags are known; the policy takes the others."""
        wrong = []
        for i, (x, y) in enumerate(pairs):
            where = f"{split}, sequence {i + 1}" if not isinstance(pairs, Lines) else pairs.where(i)
            if len(x) != len(y):
                raise DataError(f"{where} has {len(x)} steps and {len(y)} tags; expected equally many")
            try:
                self._numbers(y)
            except DataError as error:
                self.errors.refuse(f"{where}: {error}", "tags of training")
                wrong.append(i)
        return _take(pairs, np.delete(np.arange(len(pairs)), wrong)) if wrong else pairs

    def _check(self, split: str, pairs: Pairs) -> Array:
        """Return the steps of each sequence; count the unknown words."""
        lengths, self.unknown[split] = array("q"), 0
        for x, _ in pairs:
            lengths.append(len(x))
            if self.tokenizer:
                self.unknown[split] += sum(self.tokenizer.encode(word)[0] == UNKNOWN for word in x)
        return np.array(lengths)

    def content(self) -> Iterator[bytes]:
        known = (self.tokenizer.words.symbols, self.tokenizer.characters.symbols) if self.tokenizer else self.features
        yield repr((known, self.labels.symbols, list(self.items))).encode("utf-8", "replace")
        for items in self.items.values():
            for x, y in items:
                yield x.numpy().tobytes() if isinstance(x, Tensor) else repr(x).encode("utf-8", "replace")
                yield y.numpy().tobytes()

    def augment(self, items: list[tuple[Any, Tensor]], seed: int) -> list[tuple[Any, Tensor]]:
        if not (by := self.config.transpose):
            return items
        generator = torch.Generator().manual_seed(seed)
        steps = torch.randint(-by, by + 1, (len(items),), generator=generator).tolist()
        return [_transposed(x, y, step) for (x, y), step in zip(items, steps, strict=True)]

    def collate(self, items: Sequence[tuple[Any, Tensor]]) -> TaggedBatch:
        y, _ = padded([tags for _, tags in items])
        sequences = [x for x, _ in items]
        x, lengths = self.tokenizer.batch(sequences) if self.tokenizer else padded(sequences)
        return TaggedBatch(x, lengths, y)

    def sizes(self, split: str) -> Sequence[str]:
        return (f"{self.lengths[split].sum():,} {'frames' if isinstance(self.features, PictureSize) else 'steps'}",)

    def unknown_counts(self, split: str) -> Sequence[str]:
        few = self.unknown[split]
        return (f"{few:,} words unknown ({few / self.lengths[split].sum():.2%})",) if self.tokenizer else ()

    def first(self, split: str) -> str:
        x, y = self.pairs[split][0]
        if isinstance(x, Tensor):
            what = "frames" if isinstance(self.features, PictureSize) else "steps"
            return f"{len(x)} {what} of {self.features}{' numbers' if what == 'steps' else ''}"
        return shortened(" ".join(f"{word}/{tag}" for word, tag in zip(x[:12], y, strict=False)))

    def summary(self) -> str:
        return f"{len(self.labels)} labels"


def read_part(path: Path, config: TaggedConfig, errors: ErrorPolicy, channels: int | None = None) -> Pairs:
    """Return the pairs (sequence, tags) of one file; `channels` are those of training's pictures."""
    words, tags, series = WordLists(), WordLists(), list[tuple[Tensor, Tensor]]()
    check_size(config.size)
    fields = Fields(config.text, config.label, config.lengths, config.columns, size=config.size, channels=channels)
    lines = array("q")
    for sequence, labels, _, line in read_tagged(FileSource(path, errors), config.format, fields):
        lines.append(line)
        if isinstance(sequence, Tensor):
            series.append((sequence, labels))
        else:
            words.append(sequence)
            tags.append(labels)
    return series or Lines(Zip(words, tags), str(path), lines)


class Lines(LazySequence[tuple[Any, Any]]):
    """Sequences and their tags, with the file and the line where each begins."""

    def __init__(self, pairs: Pairs, place: str, lines: Sequence[int]) -> None:
        self.pairs, self.place, self.lines = pairs, place, lines

    def __len__(self) -> int:
        return len(self.pairs)

    def item(self, index: int) -> tuple[Any, Any]:
        return self.pairs[index]

    def where(self, index: int) -> str:
        """Return the file and the line."""
        return f"{self.place}: line {self.lines[index]}"


def _take(pairs: Pairs, indices: Array) -> Pairs:
    """Return the pairs with these indices."""
    if not isinstance(pairs, Lines):
        return Subset(pairs, indices)
    return Lines(Subset(pairs.pairs, indices), pairs.place, array("q", (pairs.lines[i] for i in indices)))


def _transposed(x: Tensor, y: Tensor, by: int) -> tuple[Tensor, Tensor]:
    roll = transposed(torch.cat([x, y[-1:]]), by)
    return roll[:-1], roll[1:]


def _filled(pairs: Pairs) -> Pairs:
    """Return the sequences that have a step."""
    filled = np.fromiter((len(x) > 0 for x, _ in pairs), bool)
    return pairs if filled.all() else _take(pairs, filled.nonzero()[0])
