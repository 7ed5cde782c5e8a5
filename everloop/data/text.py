"""A text as one long sequence of symbols, cut into training, validation and test parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from everloop.data.files import Units, find_files, read_bytes, read_text
from everloop.data.streams import Windows
from everloop.data.vocabulary import Vocabulary
from everloop.errors import DataError, OptionError, unknown

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class TextConfig:
    """Which text is read, and how."""

    text: tuple[Path, ...] = ()
    """Text files, or folders that hold some."""
    pattern: str = "*.txt"
    """Which files of a folder are taken."""
    units: Units = "characters"
    """What one symbol is: a character, or a byte (any file, any language, 256 symbols)."""
    split: tuple[float, float, float] = (0.9, 0.05, 0.05)
    """The shares of the text for training, validation and test, cut in this order."""


class Text:
    """A text from files, folders or a string: UTF-8, cut into train, valid and test in this order.

    Several files are read one after another, each ended by a newline.

    Args:
        sources: files, or folders of which every file that fits `pattern` is taken.
        units: "characters", or "bytes" (any file, 256 symbols).
        split: the shares of the parts; they add up to 1, and 0 leaves a part out.
        vocabulary: numbers to use, for instance a trained model's; by default those of the text.

    Raises:
        DataError: a file is missing, empty or not UTF-8, a symbol is unknown, a part is too short.
        OptionError: units or split make no sense.
    """

    def __init__(
        self,
        *sources: str | Path,
        units: Units = "characters",
        split: tuple[float, float, float] = (0.9, 0.05, 0.05),
        pattern: str = "*.txt",
        vocabulary: Vocabulary | None = None,
    ) -> None:
        if not sources:
            raise DataError("no text given; name at least one file or folder")
        files = find_files(sources, pattern)
        reader = _bytes_as_text if units == "bytes" else read_text
        pieces = [reader(file) for file in files]
        joined = "".join(p if p.endswith("\n") or len(pieces) == 1 else p + "\n" for p in pieces)
        self.config = TextConfig(tuple(Path(source).absolute() for source in sources), pattern, units, split)
        self._fill(joined, vocabulary, ", ".join(str(file) for file in files[:3]) + ("…" if len(files) > 3 else ""))

    @classmethod
    def from_string(
        cls,
        text: str,
        *,
        units: Units = "characters",
        split: tuple[float, float, float] = (0.9, 0.05, 0.05),
        vocabulary: Vocabulary | None = None,
    ) -> Text:
        """Return the Text of a string that is already in memory."""
        self = object.__new__(cls)
        self.config = TextConfig((), TextConfig.pattern, units, split)
        self._fill(text, vocabulary, "the string")
        return self

    @classmethod
    def from_config(cls, config: TextConfig, vocabulary: Vocabulary | None = None) -> Text:
        """Return the Text that a configuration describes."""
        return cls(*config.text, units=config.units, split=config.split, pattern=config.pattern, vocabulary=vocabulary)

    def _fill(self, text: str, vocabulary: Vocabulary | None, place: str) -> None:
        if not text:
            raise DataError(f"{place} is empty; expected text")
        self.place = place
        self.vocabulary = vocabulary or Vocabulary.of(text, self.config.units)
        numbers = self.vocabulary.encode(text, place)
        self.parts = dict(zip(PARTS, _cut(numbers, self.config.split, place), strict=True))

    def __getitem__(self, part: str) -> Tensor:
        """Return the numbers of one part, "train", "valid" or "test"."""
        if part not in self.parts:
            raise OptionError(unknown("part of the text", part, PARTS))
        return self.parts[part]

    @property
    def splits(self) -> tuple[str, ...]:
        """The parts that are not empty."""
        return tuple(name for name, numbers in self.parts.items() if len(numbers))

    @property
    def fingerprint(self) -> str:
        """A short name of exactly these symbols and this cut; it tells whether a run is resumed on its own text."""
        digest = hashlib.sha256(repr((self.vocabulary.symbols, self.vocabulary.units)).encode("utf-8", "replace"))
        for numbers in self.parts.values():
            digest.update(len(numbers).to_bytes(8, "little"))
            digest.update(numbers.numpy().tobytes())
        return digest.hexdigest()[:16]

    def epoch(self, split: str, number: int, *, batch: int, length: int, seed: int = 0) -> Windows:
        """Return the batches of one pass over a part: contiguous streams, a window of `length` symbols at a time.

        Training passes differ by a random shift; the others keep every symbol, with longer and so fewer streams.

        Raises:
            DataError: the part is too short for one window.
        """
        numbers = self[split]
        where = f"the {split} part of {self.place}"
        if split != "train":
            return Windows(numbers, max(1, min(batch, len(numbers) // 4096)), length, whole=True, where=where)
        shift = torch.Generator().manual_seed(seed * 1_000_003 + number)
        spare = min(length - 1, len(numbers) - 1 - batch * length)
        start = int(torch.randint(spare + 1, (), generator=shift)) if spare > 0 else 0
        return Windows(numbers[start:], batch, length, whole=False, where=where)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(numbers):,}" for name, numbers in self.parts.items())
        return f"Text({self.place}: {sizes} {self.config.units}, {len(self.vocabulary)} different)"


def _bytes_as_text(path: str | Path) -> str:
    data = read_bytes(path)
    if not data:
        raise DataError(f"{path} is empty; expected at least one byte")
    return data.decode("utf-8", "surrogateescape")


def _cut(numbers: Tensor, split: Iterable[float], place: str) -> list[Tensor]:
    shares = tuple(split)
    if len(shares) != 3 or any(not 0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-9:
        raise OptionError(f"split is {shares}; expected three shares between 0 and 1 that add up to 1")
    first = round(len(numbers) * shares[0])
    # a part that was not asked for stays empty, whatever the rounding
    second = len(numbers) if not shares[2] else first if not shares[1] else round(len(numbers) * sum(shares[:2]))
    parts = [numbers[:first], numbers[first:second], numbers[second:]]
    for name, part, share in zip(PARTS, parts, shares, strict=True):
        if share and len(part) < 2:
            raise DataError(
                f"{place} has {len(numbers)} symbols, so its {name} part would have {len(part)}; expected at least 2: "
                "give more text or another split"
            )
    return parts
