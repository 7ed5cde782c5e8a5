"""A text as one long sequence of symbols, cut into training, validation and test splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from everloop.data.batching.windows import Windows
from everloop.data.dataset import SPLITS, Dataset, pass_seed
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.files import find_files
from everloop.data.ragged import RaggedArray, Strings, pieces
from everloop.data.readers.chunks import Chunk, byte_chunks, text_chunks
from everloop.data.settings import setting
from everloop.data.tokenize.vocabulary import Units, Vocabulary, check_units
from everloop.data.tokenize.word_vocabulary import MIN_FREQ, WordVocabulary, check_words, counted
from everloop.errors import DataError, OptionError


@dataclass(frozen=True)
class TextConfig:
    """Which text is read, and how."""

    text: tuple[Path, ...] = ()
    """Text files, or folders that hold some."""
    pattern: str = "*.txt"
    """Which files of a folder are taken."""
    units: Units = "characters"
    """What one symbol is: a character, a word or sign, or a byte (any file, any language, 256 symbols)."""
    split: tuple[float, float, float] = (0.9, 0.05, 0.05)
    """The fractions of the text for training, validation and test, cut in this order."""
    lower: bool = False
    """Words: whether the text is read in lower case."""
    min_freq: int | None = setting(None, old="least")
    """Words: how often one must occur in training to have a number of its own; by default 2."""
    max_vocab: int | None = setting(None, old="limit")
    """Words: how many have a number of their own, the most frequent ones; by default all that occur often enough."""
    malformed: Malformed = "stop"
    """What to do with a line that is not UTF-8."""

    def __post_init__(self) -> None:
        for name, value in {"lower": self.lower, "min_freq": self.min_freq, "max_vocab": self.max_vocab}.items():
            if value and self.units != "words":
                raise OptionError(f"{name} is {value}; that is for words, and units is {self.units!r}")
        check_words(MIN_FREQ if self.min_freq is None else self.min_freq, self.max_vocab)


class Text(Dataset[Tensor]):
    """A text from files, folders or a string: UTF-8, cut into train, valid and test in this order.

    A split is a tensor of symbol numbers; `epoch` reads it in windows, in several streams at once.

    Several files are read one after another, each ended by a newline.

    Args:
        sources: files, or folders of which every file that fits `pattern` is taken.
        units: "characters", "words" (and signs and ends of lines), or "bytes" (any file, 256 symbols).
        split: the fractions of the splits; they add up to 1, and 0 leaves a split out.
        vocabulary: numbers to use, for instance a trained model's; by default those of the text, of words those of
            its training split.
        lower, min_freq, max_vocab: which words are known, as in TextConfig.
        malformed: whether a line that is not UTF-8 stops the reading, or is left out and counted.

    Raises:
        DataError: a file is missing, empty or not UTF-8, a character is unknown, a split is too short.
        OptionError: units, split or one of the others make no sense.
    """

    def __init__(
        self,
        *sources: str | Path,
        units: Units = "characters",
        split: tuple[float, float, float] = (0.9, 0.05, 0.05),
        pattern: str = "*.txt",
        vocabulary: Vocabulary | None = None,
        lower: bool = False,
        min_freq: int | None = None,
        max_vocab: int | None = None,
        malformed: Malformed = "stop",
    ) -> None:
        if not sources:
            raise DataError("no text given; name at least one file or folder")
        places = tuple(Path(source).absolute() for source in sources)
        config = TextConfig(places, pattern, check_units(units), split, lower, min_freq, max_vocab, malformed)
        super().__init__(config, ErrorPolicy(malformed))
        files = find_files(sources, pattern)
        self._fill(_chunks(files, units, self.errors), vocabulary, _names(files))

    @classmethod
    def from_string(
        cls,
        text: str,
        *,
        units: Units = "characters",
        split: tuple[float, float, float] = (0.9, 0.05, 0.05),
        vocabulary: Vocabulary | None = None,
        lower: bool = False,
        min_freq: int | None = None,
        max_vocab: int | None = None,
    ) -> Text:
        """Return the Text of a string that is already in memory."""
        self = object.__new__(cls)
        config = TextConfig((), TextConfig.pattern, check_units(units), split, lower, min_freq, max_vocab)
        Dataset.__init__(self, config)
        if not text:
            raise DataError("the string is empty; expected text")
        self._fill([Chunk(text, "the string")], vocabulary, "the string")
        return self

    @classmethod
    def from_config(cls, config: TextConfig, vocabulary: Vocabulary | None = None) -> Text:
        """Return the Text that a configuration describes."""
        settings = {name: value for name, value in vars(config).items() if name != "text"}
        return cls(*config.text, **settings, vocabulary=vocabulary)

    def _fill(self, chunks: Iterable[Chunk], vocabulary: Vocabulary | None, place: str) -> None:
        self.place = place
        units = self.config.units
        if vocabulary and vocabulary.units != units:
            raise OptionError(f"units is {units!r}, and the vocabulary has {vocabulary.units}; expected the same")
        read = self._words if units == "words" else self._characters
        self.vocabulary, encoded = read(chunks, vocabulary)
        numbers = torch.from_numpy(encoded.all)
        self.items = dict(zip(SPLITS, _cut(numbers, self.config.split, place), strict=True))

    def _characters(self, chunks: Iterable[Chunk], known: Vocabulary | None) -> tuple[Vocabulary, RaggedArray]:
        if known is None and self.config.units == "characters":
            # the text is put aside while its characters are learned: it may come from a pipe
            aside, found = Strings(), set[str]()
            for chunk in chunks:
                found.update(chunk.text)
                aside.append(chunk.text)
            known, chunks = Vocabulary(sorted(found)), (Chunk(text, self.place) for text in aside)
        vocabulary = known or Vocabulary.of("", self.config.units)
        encoded = RaggedArray(_dtype(vocabulary))
        for chunk in chunks:
            encoded.write(vocabulary.encode(chunk.text, chunk.place, chunk.position, chunk.line))
        return vocabulary, encoded

    def _words(self, chunks: Iterable[Chunk], known: Vocabulary | None) -> tuple[Vocabulary, RaggedArray]:
        """Return (vocabulary, numbers of the text); if none is known it is learned from the training split."""
        config = self.config
        lower = known.lower if isinstance(known, WordVocabulary) else config.lower
        places, read = dict[str, int](), RaggedArray()
        for chunk in chunks:
            read.write(counted(chunk.text, lower, places))
        if not isinstance(known, WordVocabulary):
            numbers = torch.from_numpy(read.all)
            train = _cut(numbers, config.split, self.place)[0] if config.split[0] else numbers
            times = np.zeros(len(places), np.int64)
            for piece in pieces(train.numpy()):
                times += np.bincount(piece, minlength=len(places))
            min_freq = MIN_FREQ if config.min_freq is None else config.min_freq
            counts = Counter(dict(zip(places, times.tolist(), strict=True)))
            known = WordVocabulary.learn(counts, min_freq=min_freq, max_vocab=config.max_vocab, lower=lower)
        final = known.take(places, np.arange(len(places))).numpy()
        encoded = RaggedArray(_dtype(known))
        for piece in pieces(read.all):
            encoded.write(final[piece])
        return known, encoded

    @cached_property
    def unknown(self) -> dict[str, tuple[int, int]]:
        """How many symbols of each split are unknown, and of how many; empty if every symbol must be known."""
        number = self.vocabulary.unknown
        if number is None:
            return {}
        counts = {
            name: sum(int((piece == number).sum()) for piece in pieces(p.numpy())) for name, p in self.items.items()
        }
        return {name: (count, len(self.items[name])) for name, count in counts.items()}

    def content(self) -> Iterator[bytes]:
        yield repr((self.vocabulary.symbols, self.vocabulary.units)).encode("utf-8", "replace")
        for numbers in self.items.values():
            yield len(numbers).to_bytes(8, "little")
            yield from (piece.tobytes() for piece in pieces(numbers.numpy()))

    def epoch(self, split: str, number: int, *, batch: int, length: int = 256, seed: int = 0) -> Windows:
        """Return the batches of one pass over a split: contiguous streams, a window of `length` symbols at a time.

        Training passes differ by a random shift; the others keep every symbol, with longer and so fewer streams.

        Raises:
            DataError: the split is too short for one window.
        """
        numbers = self[split]
        where = f"the {split} split of {self.place}"
        if split != "train":
            return Windows(numbers, max(1, min(batch, len(numbers) // 4096)), length, whole=True, where=where)
        shift = torch.Generator().manual_seed(pass_seed(seed, number))
        spare = min(length - 1, len(numbers) - 1 - batch * length)
        start = int(torch.randint(spare + 1, (), generator=shift)) if spare > 0 else 0
        return Windows(numbers[start:], batch, length, whole=False, where=where)

    def describe(self, batch: int) -> list[str]:
        return [repr(self)]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(numbers):,}" for name, numbers in self.items.items())
        missing = "".join(
            f", {few:,} unknown in {name} ({few / of:.2%})" for name, (few, of) in self.unknown.items() if of
        )
        return f"Text({self.place}: {sizes} {self.config.units}, {len(self.vocabulary):,} different{missing})"


def _chunks(files: Sequence[Path], units: Units, errors: ErrorPolicy) -> Iterator[Chunk]:
    """Yield the files one after another, each of several ended by a newline."""
    for file in files:
        end = ""
        for chunk in byte_chunks(file) if units == "bytes" else text_chunks(file, errors):
            yield chunk
            end = chunk.text[-1]
        if len(files) > 1 and end != "\n":
            yield Chunk("\n", str(file))


def _names(files: Sequence[Path]) -> str:
    return ", ".join(map(str, files[:3])) + ("…" if len(files) > 3 else "")


def _dtype(vocabulary: Vocabulary) -> str:
    return "uint8" if vocabulary.dtype == torch.uint8 else "int32"


def _cut(numbers: Tensor, split: Iterable[float], place: str) -> list[Tensor]:
    fractions = tuple(split)
    if len(fractions) != 3 or any(not 0 <= fraction <= 1 for fraction in fractions) or abs(sum(fractions) - 1) > 1e-9:
        raise OptionError(f"split is {fractions}; expected three fractions between 0 and 1 that add up to 1")
    first = round(len(numbers) * fractions[0])
    # a split with fraction 0 stays empty, whatever the rounding
    second = (
        len(numbers) if not fractions[2] else first if not fractions[1] else round(len(numbers) * sum(fractions[:2]))
    )
    parts = [numbers[:first], numbers[first:second], numbers[second:]]
    for name, part, fraction in zip(SPLITS, parts, fractions, strict=True):
        if fraction and len(part) < 2:
            raise DataError(
                f"{place} has {len(numbers)} symbols, so its {name} split would have {len(part)}; expected at least 2: "
                "give more text or another split"
            )
    return parts
