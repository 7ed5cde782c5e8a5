"""Tagged sequences: a label, or several, for each step; of words, or of vectors."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from everloop.data.batching.buckets import Groups, buckets, padding_fraction
from everloop.data.batching.padding import Batches, padded
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.lazy import Array, Subset, Zip
from everloop.data.ragged import WordLists
from everloop.data.readers.arrays import sequences, tags
from everloop.data.readers.chorales import PITCHES, read_chorales, transposed
from everloop.data.readers.conllu import sentences
from everloop.data.readers.lines import opened, suffix
from everloop.data.readers.tables import Records
from everloop.data.settings import setting
from everloop.data.tokenize.symbols import UNKNOWN, Symbols
from everloop.data.tokenize.words import WordReader, Words
from everloop.errors import DataError, OptionError, unknown

Form = Literal["auto", "conllu", "jsonl", "npz", "chorales"]
Pairs = Sequence[tuple[Any, Any]]
_FORMS: dict[str, Form] = {".conllu": "conllu", ".conll": "conllu", ".jsonl": "jsonl", ".npz": "npz"}


@dataclass(frozen=True)
class TaggedConfig:
    """Which tagged sequences are read, and how."""

    train: Path | None = None
    """Training sequences: CoNLL-U, JSON lines (lists of words and tags), .npz, or a JSON file of chorales."""
    valid: Path | None = None
    """Validation sequences; without a file, `hold_out` says how many."""
    test: Path | None = None
    """Test sequences."""
    form: Form = "auto"
    """What the files are; by default as their names end. Chorales hold all three parts in one file."""
    text: str = "form"
    """The CoNLL-U column or JSON name of the words, or the array of the vectors."""
    label: str = "upos"
    """The CoNLL-U column, JSON name or array that holds the tags."""
    lengths: str = ""
    """The array that holds the steps of each sequence."""
    lower: bool = True
    """Whether words are numbered by their lower case; their characters are read as they are."""
    min_freq: int = setting(2, old="least")
    """How often a word must occur in training to have a number of its own."""
    hold_out: tuple[float, float] = (0.1, 0.0)
    """Shares of the training sequences taken for validation and test, where there is no file for them."""
    transpose: int = 0
    """Semitones by which training chorales are transposed, at most and at random, up or down."""
    padding: float = 0.1
    """Largest share of padding in a batch."""
    malformed: Malformed = "stop"
    """What to do with a malformed line."""


@dataclass(frozen=True)
class TaggedBatch:
    """Sequences and their tags. x: words, or features [T, B, F]; lengths: [B]; y: [T, B], or [T, B, K] of 0 and 1."""

    x: Words | Tensor
    lengths: Tensor
    y: Tensor
    first: bool = True

    def to(self, device: torch.device | str) -> TaggedBatch:
        """Return the batch on a device."""
        return TaggedBatch(self.x.to(device), self.lengths.to(device), self.y.to(device))

    @property
    def exists(self) -> Tensor:
        """Where there is a step and no padding, bool [T, B]."""
        return torch.arange(len(self.y), device=self.lengths.device)[:, None] < self.lengths


class Tagged:
    """Tagged sequences in parts "train", "valid" and "test".

    Args:
        parts: by name of the part, pairs (words, tags) of lists of strings, or (features [T, F], tags): numbers [T],
            or 0 and 1 for several labels at once [T, K].
        config: how words are read and batches are made.
        reader, labels: those of a trained model; by default learned from the training part.

    Raises:
        DataError: a part is empty, a sequence has fewer tags than steps, a tag is unknown.
    """

    def __init__(
        self,
        parts: dict[str, Pairs],
        config: TaggedConfig | None = None,
        reader: WordReader | None = None,
        labels: Symbols | None = None,
        errors: ErrorPolicy | None = None,
    ) -> None:
        self.config, self.errors = config or TaggedConfig(), errors or ErrorPolicy()
        self.parts = {name: _filled(pairs) for name, pairs in parts.items() if len(pairs)}
        first = next((pairs[0] for pairs in self.parts.values() if len(pairs)), None)
        if first is None or ("train" not in self.parts and labels is None):
            raise DataError("there are no training sequences; expected at least one")
        x, y = first
        self.features = x.shape[1] if isinstance(x, Tensor) else 0
        self.several = isinstance(y, Tensor) and y.dim() == 2
        if not self.features and reader is None:
            words = (words for words, _ in self.parts["train"])
            reader = WordReader.learn(words, lower=self.config.lower, min_freq=self.config.min_freq)
        self.reader = reader
        self.labels = labels or self._labels(y)
        self.lengths: dict[str, Array] = {}
        self.strange: dict[str, int] = {}
        self.fingerprint = self._look()

    @classmethod
    def from_config(
        cls, config: TaggedConfig, reader: WordReader | None = None, labels: Symbols | None = None
    ) -> Tagged:
        """Return the sequences that a configuration describes."""
        if config.train is None:
            raise DataError("no training sequences given; name them with --train FILE")
        if config.transpose < 0:
            raise OptionError(f"transpose is {config.transpose}; expected 0 or more")
        errors = ErrorPolicy(config.malformed)
        if form_of(config.train, config.form) == "chorales":
            parts = next_frames(read_chorales(config.train))
            return cls(parts, config, reader, labels or Symbols(PITCHES), errors)
        parts = {"train": read_part(config.train, config, errors)}
        for name in ("valid", "test"):
            if (path := getattr(config, name)) is not None:
                parts[name] = read_part(path, config, errors)
        return cls(_held_out(parts, config.hold_out), config, reader, labels, errors)

    def _labels(self, y: Any) -> Symbols:
        if self.several:
            return Symbols(map(str, range(y.shape[1])))
        if isinstance(y, Tensor):
            return Symbols(map(str, range(1 + max(int(tags.max()) for _, tags in self.parts["train"]))))
        return Symbols(sorted({tag for _, tags in self.parts["train"] for tag in tags}))

    def _numbers(self, tags: Any) -> Tensor:
        if not isinstance(tags, Tensor):
            return torch.tensor(self.labels.encode(tags))
        if self.several and tags.shape[1] != len(self.labels):
            raise DataError(f"a sequence has {tags.shape[1]} labels a step; expected {len(self.labels)}")
        if not self.several and int(tags.max()) >= len(self.labels):
            raise DataError(f"a tag is {int(tags.max())}; training knows 0 to {len(self.labels) - 1}")
        return tags.float() if self.several else tags.long()

    @property
    def splits(self) -> tuple[str, ...]:
        """The parts that there are."""
        return tuple(self.parts)

    def _look(self) -> str:
        """Look at each sequence once: its steps, unknown words, tags; return a short name of exactly these."""
        known = (self.reader.words.symbols, self.reader.characters.symbols) if self.reader else self.features
        digest = hashlib.sha256(repr((known, self.labels.symbols, list(self.parts))).encode("utf-8", "replace"))
        for name, pairs in self.parts.items():
            lengths, self.strange[name] = array("q"), 0
            for number, (x, y) in enumerate(pairs, 1):
                if len(x) != len(y):
                    raise DataError(
                        f"{name}, sequence {number} has {len(x)} steps and {len(y)} tags; expected equally many"
                    )
                lengths.append(len(x))
                if self.reader:
                    self.strange[name] += sum(self.reader.encode(word)[0] == UNKNOWN for word in x)
                digest.update(x.numpy().tobytes() if isinstance(x, Tensor) else repr(x).encode("utf-8", "replace"))
                try:
                    numbers = self._numbers(y)
                except DataError as error:
                    raise DataError(f"{name}, sequence {number}: {error}") from None
                digest.update(numbers.numpy().tobytes())
            self.lengths[name] = np.array(lengths)
        return digest.hexdigest()[:16]

    def groups(self, split: str, number: int, *, batch: int, seed: int) -> Groups:
        """Return which sequences form each batch of a pass."""
        if split not in self.parts:
            raise OptionError(unknown("part of the data", split, self.parts))
        order = seed * 1_000_003 + number if split == "train" else None
        return buckets(self.lengths[split], batch, seed=order, padding=self.config.padding)

    def epoch(self, split: str, number: int, *, batch: int, length: int = 0, seed: int = 0) -> Batches[TaggedBatch]:
        """Return the batches of one pass: sequences of about the same length together, in training shuffled anew."""
        by = self.config.transpose if split == "train" else 0

        def make(group: list[int]) -> TaggedBatch:
            pairs = [(x, self._numbers(y)) for x, y in (self.parts[split][i] for i in group)]
            if by:
                chance = torch.Generator().manual_seed((seed * 1_000_003 + number) * 1_000_003 + group[0])
                steps = torch.randint(-by, by + 1, (len(pairs),), generator=chance).tolist()
                pairs = [_transposed(x, y, step) for (x, y), step in zip(pairs, steps, strict=True)]
            return batch_of(pairs, self.reader)

        return Batches(self.groups(split, number, batch=batch, seed=seed), make)

    def notes(self, batch: int) -> list[str]:
        """Return what one should know of the data: sizes, unknown words, padding, malformed lines."""
        lines = []
        for name, lengths in self.lengths.items():
            share = padding_fraction(self.groups(name, 0, batch=batch, seed=0), lengths)
            line = f"{name}: {len(lengths):,} sequences, {lengths.sum():,} steps, padding {share:.1%}"
            if self.reader:
                line += f", {self.strange[name]:,} words unknown ({self.strange[name] / lengths.sum():.2%})"
            lines.append(line)
        return [*lines, str(self.errors)] if self.errors.skipped else lines

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {len(pairs):,}" for name, pairs in self.parts.items())
        return f"Tagged({counts}; {len(self.labels)} labels)"


def batch_of(pairs: Sequence[tuple[Any, Tensor]], reader: WordReader | None) -> TaggedBatch:
    """Return sequences (words, or features) and the numbers of their tags as a batch."""
    y, _ = padded([tags for _, tags in pairs])
    x, lengths = reader.batch([x for x, _ in pairs]) if reader else padded([x for x, _ in pairs])
    return TaggedBatch(x, lengths, y)


def next_frames(pieces: dict[str, list[Tensor]]) -> dict[str, Pairs]:
    """Return, of each piece, the frames read and the frames that follow them."""
    return {name: [(roll[:-1], roll[1:]) for roll in rolls if len(roll) > 1] for name, rolls in pieces.items()}


def form_of(path: Path, form: Form) -> Form:
    """Return what a file is, as it was said, or as its name tells."""
    if form != "auto":
        return form
    if (found := _FORMS.get(suffix(path))) is None:
        raise OptionError(f"{path}: the name tells no form; say it with --form (conllu, jsonl, npz, chorales)")
    return found


def read_part(path: Path, config: TaggedConfig, errors: ErrorPolicy) -> Pairs:
    """Return the pairs (sequence, tags) of one file."""
    form = form_of(path, config.form)
    if form == "npz":
        series = sequences(path, config.text, config.lengths)
        return Zip(series, tags(path, config.label, [len(x) for x in series]))
    with opened(path) as file:
        if form == "conllu":
            found = sentences(file, str(path), errors)
            return _shelved((sentence.column(config.text), sentence.column(config.label)) for sentence in found)
        return _shelved(_json_lines(file, path, config, errors))


def _shelved(pairs: Iterable[tuple[list[str], list[str]]]) -> Pairs:
    words, tags = WordLists(), WordLists()
    for some, their in pairs:
        words.append(some)
        tags.append(their)
    return Zip(words, tags)


def _json_lines(
    file: Iterable[bytes], path: Path, config: TaggedConfig, errors: ErrorPolicy
) -> Iterator[tuple[list[str], list[str]]]:
    records = Records({config.text: "words", config.label: "words"}, "jsonl", (), path, errors)
    for number, _, row in records.read(file):
        words, labels = row[config.text], row[config.label]
        if len(words) != len(labels):
            errors.report(path, number, f"{len(words)} words and {len(labels)} tags", "equally many")
        else:
            yield words, labels


def _held_out(parts: dict[str, Pairs], shares: tuple[float, float]) -> dict[str, Pairs]:
    if any(not 0 <= share < 1 for share in shares) or sum(shares) >= 1:
        raise OptionError(f"hold_out is {shares}; expected two shares that leave something for training")
    pairs, taken = parts["train"], dict(parts)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).numpy()
    for name, share in (("test", shares[1]), ("valid", shares[0])):
        if name not in parts and share:
            count = round(share * len(pairs))
            taken[name], order = Subset(pairs, order[:count]), order[count:]
    taken["train"] = Subset(pairs, np.sort(order))
    return {name: taken[name] for name in ("train", "valid", "test") if name in taken}


def _transposed(x: Tensor, y: Tensor, by: int) -> tuple[Tensor, Tensor]:
    roll = transposed(torch.cat([x, y[-1:]]), by)
    return roll[:-1], roll[1:]


def _filled(pairs: Pairs) -> Pairs:
    """Return the sequences that have a step."""
    filled = np.fromiter((len(x) > 0 for x, _ in pairs), bool)
    return pairs if filled.all() else Subset(pairs, filled.nonzero()[0])
