"""What every dataset is: splits, which can be read by index, and the batches of one pass over a split."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Sized
from functools import cached_property, partial
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch

from everloop.data.batching.buckets import buckets, padding_fraction
from everloop.data.batching.padding import Batches
from everloop.data.error_policy import ErrorPolicy
from everloop.data.lazy import Array
from everloop.errors import OptionError, unknown

Split = TypeVar("Split", bound=Sized)
Item = TypeVar("Item")
Batch = TypeVar("Batch")
Items = TypeVar("Items", bound=Sized)
SPLITS = ("train", "valid", "test")


class Dataset(ABC, Generic[Split]):
    """Splits by name: `dataset["train"][3]` is an item.

    Args:
        config: the settings it was read with; a run folder keeps them.
        errors: the malformed lines of its files.
    """

    config: Any
    items: dict[str, Split]

    def __init__(self, config: Any, errors: ErrorPolicy | None = None) -> None:
        self.config, self.errors = config, errors or ErrorPolicy()

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are not empty."""
        return tuple(name for name, items in self.items.items() if len(items))

    def __getitem__(self, split: str) -> Split:
        """Return the items of a split.

        Raises:
            OptionError: there is no such split.
        """
        if split not in self.items:
            raise OptionError(unknown("split", split, self.items))
        return self.items[split]

    def time_steps(self, split: str) -> int:
        """Return how many time steps a split has."""
        return len(self[split])

    @cached_property
    def fingerprint(self) -> str:
        """A short name of exactly this data; a run is resumed on data with the same fingerprint only."""
        digest = hashlib.sha256()
        for chunk in self.content():
            digest.update(chunk)
        return digest.hexdigest()[:16]

    @abstractmethod
    def content(self) -> Iterator[bytes]:
        """Yield what the fingerprint is made from; run folders hold fingerprints, so these bytes must not change."""

    @abstractmethod
    def describe(self, batch: int) -> list[str]:
        """Return a line about each split: its size, unknown symbols, padding."""

    def notes(self, batch: int) -> list[str]:
        """Return what a user should know about the data before training, with `batch` sequences in a batch."""
        return [*self.describe(batch), *([str(self.errors)] if self.errors.skipped else [])]

    def first(self, split: str) -> str:
        """Return the first item of a split as it was read, in words, so that a wrong column is seen."""
        return ""


class SequenceDataset(Dataset[Sequence[Item]], Generic[Item, Batch]):
    """A dataset of sequences: a batch holds sequences of about the same length.

    A subclass sets `items` and `lengths`, and defines `collate`, `content` and the class variables.
    `torch.utils.data.DataLoader(data["train"], batch_size=32, collate_fn=data.collate)` makes batches of items, and
    `DataLoader(data.epoch("train", 0, batch=32), batch_size=None)` makes the batches of a pass as training has them.
    """

    unit: ClassVar[str] = "sequences"  # what an item is called
    padding: float = 0.2  # the largest fraction of padding in a batch
    held_out: Collection[str] = ()  # the splits that were taken from the training split
    lengths: dict[str, Array]  # by which the sequences of a split are sorted

    @abstractmethod
    def collate(self, items: Sequence[Item]) -> Batch:
        """Return items as a batch."""

    def epoch(self, split: str, number: int, *, batch: int, seed: int = 0) -> Batches[Batch]:
        """Return the batches of a pass; those of the training split are shuffled, differently in each pass."""
        sampler = self.batch_sampler(split, number, batch=batch, seed=seed)
        return Batches(sampler, partial(self.batch_of, split, number, seed))

    def batch_sampler(self, split: str, number: int = 0, *, batch: int, seed: int = 0) -> Sequence[list[int]]:
        """Return the indices of the items of each batch of a pass."""
        self[split]
        order = pass_seed(seed, number) if split == "train" else None
        return buckets(self.lengths[split], batch, seed=order, padding=self.padding)

    def items_of_pass(self, split: str, number: int, seed: int) -> Sequence[Item]:
        """Return the items that a pass reads."""
        return self[split]

    def augment(self, items: list[Item], seed: int) -> list[Item]:
        """Return the items of a training batch with random changes."""
        return items

    def batch_of(self, split: str, number: int, seed: int, indices: list[int]) -> Batch:
        """Return a batch of a pass."""
        source = self.items_of_pass(split, number, seed)
        items = [source[i] for i in indices]
        if split == "train":
            items = self.augment(items, pass_seed(pass_seed(seed, number), indices[0]))
        return self.collate(items)

    def describe(self, batch: int) -> list[str]:
        lines = []
        for split in self.splits:
            padding = padding_fraction(self.batch_sampler(split, batch=batch), self.steps(split))
            sizes = "".join(f", {size}" for size in self.sizes(split))
            missing = "".join(f", {count}" for count in self.unknown_counts(split))
            taken = ", held out of training (--hold-out)" if split in self.held_out else ""
            lines.append(f"{split}: {len(self[split]):,} {self.unit}{taken}{sizes}, padding {padding:.1%}{missing}")
        return lines

    def steps(self, split: str) -> Array:
        """Return how many steps each item has in a batch, by which padding is counted."""
        return self.lengths[split]

    def time_steps(self, split: str) -> int:
        return int(self.steps(split).sum())

    def sizes(self, split: str) -> Sequence[str]:
        """Return further sizes of a split, in words."""
        return ()

    def unknown_counts(self, split: str) -> Sequence[str]:
        """Return how much of a split is unknown to the model, in words."""
        return ()

    def summary(self) -> str:
        """Return what else `repr` says."""
        return ""

    def __repr__(self) -> str:
        counts = ", ".join(f"{split} {len(self[split]):,}" for split in self.splits)
        return f"{type(self).__name__}({counts} {self.unit}, {self.summary()})"


def shortened(text: str, width: int = 60) -> str:
    """Return a text in quotation marks, without its end where it is longer."""
    return repr(text if len(text) <= width else f"{text[: width - 1]}…")


def pass_seed(seed: int, number: int) -> int:
    """Return the seed of pass `number` of a run with this seed."""
    return seed * 1_000_003 + number


def hold_out(count: int, fractions: Sequence[float]) -> list[Array]:
    """Return the indices of the items that each held-out split takes, and of those that remain; always the same."""
    check_fractions(fractions)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).numpy()
    return np.split(order, np.cumsum([round(fraction * count) for fraction in fractions]))


def with_held_out(
    splits: Mapping[str, Items], fractions: Sequence[float], take: Callable[[Items, Array], Items]
) -> dict[str, Items]:
    """Return splits, with the validation and test splits that are missing taken from the training split.

    Args:
        splits: those that there are, "train" among them.
        fractions: how much of the training split validation takes, and test, if it takes any, where they are missing.
        take: returns the items with some indices.
    """
    check_fractions(fractions)
    # the test split comes first, so that it is the same whether or not validation takes something
    held = [*zip(("valid", "test"), fractions, strict=False)]
    missing = {n: f for n, f in reversed(held) if n not in splits and f}
    *taken, rest = hold_out(len(splits["train"]), [*missing.values()])
    train, found = splits["train"], dict(splits)
    found["train"] = take(train, np.sort(rest))
    found |= {name: take(train, indices) for name, indices in zip(missing, taken, strict=True)}
    return {name: found[name] for name in SPLITS if name in found}


def check_fractions(fractions: Sequence[float]) -> None:
    """Check which fractions of the training split are held out.

    Raises:
        OptionError: they leave nothing for training.
    """
    if any(not 0 <= fraction < 1 for fraction in fractions) or sum(fractions) >= 1:
        came = ", ".join(map(str, fractions))
        raise OptionError(f"hold_out is {came}; expected fractions that leave something for training")
