"""What has a text each: recordings or handwriting, whole, or joined at random from single characters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from everloop.data.batching.batch import Batch
from everloop.data.batching.padding import padded
from everloop.data.dataset import SequenceDataset, pass_seed
from everloop.data.lazy import Mapped
from everloop.data.settings import setting
from everloop.data.tokenize.vocabulary import Vocabulary
from everloop.errors import OptionError

Clip = tuple[Tensor, str]


@dataclass(frozen=True)
class TranscribedBatch(Batch):
    """A batch of frames with texts. frames: [T, B, F] of `lengths` [B]; labels: [B, L] of `label_lengths` [B]."""

    batch_first = ("labels",)
    frames: Tensor
    lengths: Tensor
    labels: Tensor
    label_lengths: Tensor


class Transcribed(SequenceDataset[Clip, TranscribedBatch]):
    """What has a text each. An item is (what is read, text); a batch has frames and characters."""

    reads: ClassVar[Literal["sound", "pen"]]  # as `TranscriberConfig.reads` calls it
    vocabulary: Vocabulary

    @abstractmethod
    def frames_of(self, source: Tensor) -> Tensor:
        """Return the frames [T, F] of what is read."""

    def collate(self, items: Sequence[Clip]) -> TranscribedBatch:
        rows, lengths = padded([self.frames_of(source) for source, _ in items])
        labels, label_lengths = padded([self.vocabulary.encode(text, "a transcript").long() for _, text in items])
        return TranscribedBatch(rows, lengths, labels.T.contiguous(), label_lengths)

    def summary(self) -> str:
        return f"{len(self.vocabulary)} characters"


@dataclass(frozen=True, kw_only=True)
class JoinedConfig:
    """How single characters are joined to strings."""

    min_length: int = setting(3, old="shortest")
    """Joined strings: characters in the shortest one."""
    max_length: int = setting(7, old="longest")
    """Joined strings: characters in the longest one."""
    strings: int = 1024
    """Joined strings in a pass over the training split; each pass has new ones."""
    held: int = 256
    """Joined strings in each of the other splits, which are the same in every pass."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_length <= self.max_length:
            came = f"min_length is {self.min_length}, max_length {self.max_length}"
            raise OptionError(f"{came}; expected at least 1 character, and the smaller number first")
        for name in ("strings", "held"):
            if (value := getattr(self, name)) < 1:
                raise OptionError(f"{name} is {value}; expected at least one string")


class JoinedStrings(Transcribed):
    """Random strings of single characters. A subclass sets `used` and `config`, and makes a string by `clip`."""

    unit = "strings"
    config: JoinedConfig
    used: list[str]  # the splits

    @abstractmethod
    def clip(self, split: str, number: int) -> Clip:
        """Return (what is read, text) of string `number`; its number alone says what it is."""

    def batch_sampler(self, split: str, number: int = 0, *, batch: int, seed: int = 0) -> Sequence[list[int]]:
        order = range(len(self[split]))
        return [[*order[i : i + batch]] for i in order[::batch]]

    def items_of_pass(self, split: str, number: int = 0, seed: int = 0) -> Sequence[Clip]:
        """Return the strings of a pass: in training each pass has new ones."""
        return Mapped(self.numbers(split, number, seed), partial(self.clip, split))

    def numbers(self, split: str, number: int = 0, seed: int = 0) -> range:
        """Return the number of each string of a pass, which says what it is."""
        if split == "train":
            start = pass_seed(pass_seed(seed, number), 0)
            return range(start, start + self.config.strings)
        start = -1 - self.used.index(split) * 1_000_003
        return range(start, start - self.config.held, -1)

    def generator(self, number: int) -> torch.Generator:
        """Return the random numbers that string `number` is made with."""
        return torch.Generator().manual_seed(number % 2**62)

    def length(self, generator: torch.Generator) -> int:
        """Return how many characters a string has."""
        c = self.config
        return int(torch.randint(c.min_length, c.max_length + 1, (), generator=generator))
