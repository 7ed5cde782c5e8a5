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
from everloop.data.readers.chunks import Chunk, byte_chunks, first, lines, text_chunks
from everloop.data.readers.documents import marked
from everloop.data.settings import setting
from everloop.data.tokenize.subword_vocabulary import SubwordVocabulary
from everloop.data.tokenize.vocabulary import DOCUMENT_END, MIN_FREQ, Units, Vocabulary, check_learned, check_units
from everloop.data.tokenize.word_vocabulary import WordVocabulary, counted, splitting
from everloop.errors import DataError, OptionError


@dataclass(frozen=True)
class TextConfig:
    """Which text is read, and how."""

    text: tuple[Path, ...] = ()
    """Text files, or folders that hold some."""
    valid: tuple[Path, ...] = ()
    """Files or folders for validation; without them, `split` cuts it from the text."""
    test: tuple[Path, ...] = ()
    """Files or folders for test; without them, `split` cuts it from the text."""
    pattern: str = "*.txt"
    """Which files of a folder are taken."""
    documents: str | None = None
    """What ends a document, at which the state begins anew: a text such as <|endoftext|>, in which \\n is the end of a
    line, or "files": the end of each file. By default all is one document."""
    units: Units = "characters"
    """What one symbol is: a character, a word or sign, a subword, or a byte (any file, any language, 256 symbols)."""
    tokenizer: Path | None = None
    """Subwords: a tokenizer.json of Hugging Face's tokenizers; by default they are learned from the training text."""
    split: tuple[float, float, float] = (0.9, 0.05, 0.05)
    """The fractions of the text for training, validation and test, cut in this order; what has files of its own takes
    none, and leaves its fraction to training."""
    lower: bool = False
    """Words: whether the text is read in lower case."""
    pretokenized: bool = False
    """Words: whether they are what stands between spaces, as in files that others have split into words already."""
    min_freq: int | None = setting(None, old="least")
    """How often a character or word must occur in training to have a number of its own; by default 2. All others are
    one and the same, which stands for what is unknown."""
    max_vocab: int | None = setting(None, old="limit")
    """How many characters, words or subwords have a number of their own, the most frequent ones; by default all that
    occur often enough, and 8,000 subwords."""
    malformed: Malformed = "stop"
    """What to do with a line that is not UTF-8, or that a model from before there were unknown symbols cannot read."""

    def __post_init__(self) -> None:
        for name in ("lower", "pretokenized"):
            if getattr(self, name) and self.units != "words":
                raise OptionError(f"{name} is True; that is for words, and units is {self.units!r}")
        for name, value in {"min_freq": self.min_freq, "max_vocab": self.max_vocab}.items():
            if value and self.units == "bytes":
                raise OptionError(f"{name} is {value}; that is for characters, words and subwords, not for bytes")
        if self.tokenizer is not None and self.units != "subwords":
            raise OptionError(f"tokenizer is {self.tokenizer}; that is for subwords, and units is {self.units!r}")
        for name in ("min_freq", "max_vocab"):
            if self.tokenizer is not None and (value := getattr(self, name)) is not None:
                raise OptionError(f"{name} is {value}; that is for subwords that are learned, and there is a tokenizer")
        check_learned(self.least, self.max_vocab)
        if self.documents == "":
            raise OptionError("documents is empty; expected what ends a document, or 'files'")
        if self.documents is not None and self.units == "bytes":
            raise OptionError(
                f"documents is {self.documents!r}; that is for characters, words and subwords, not for bytes"
            )

    @property
    def separator(self) -> str | None:
        """What ends a document in the text; of files that are one each, a character that is put there."""
        if self.documents is None:
            return None
        return DOCUMENT_END if self.documents == "files" else self.documents.replace("\\n", "\n").replace("\\t", "\t")

    @property
    def least(self) -> int:
        """How often a symbol must occur in training to have a number of its own."""
        return MIN_FREQ if self.min_freq is None else self.min_freq

    @property
    def cut(self) -> tuple[float, ...]:
        """The fractions of the text that its splits take."""
        if len(self.split) != 3:
            return self.split
        _, valid, test = (
            0.0 if own else part for own, part in zip(((), self.valid, self.test), self.split, strict=True)
        )
        return (self.split[0] + (self.split[1] - valid) + (self.split[2] - test), valid, test)


class Text(Dataset[Tensor]):
    """A text from files, folders or a string: UTF-8, cut into train, valid and test in this order.

    A split is a tensor of symbol numbers; `epoch` reads it in windows, in several streams at once.

    Several files are read one after another, each ended by a newline.

    Args:
        sources: files, or folders of which every file that fits `pattern` is taken.
        units: "characters", "words" (and signs and ends of lines), "subwords", or "bytes" (any file, 256 symbols).
        tokenizer: of subwords, as in TextConfig.
        split: the fractions of the splits; they add up to 1, and 0 leaves a split out.
        vocabulary: numbers to use, for instance a trained model's; by default those of the training split.
        valid, test: files or folders of these splits, which are then not cut from the others.
        documents: what ends a document, or "files", as in TextConfig; that of `vocabulary` goes first.
        lower, pretokenized, min_freq, max_vocab: which symbols are known, as in TextConfig.
        malformed: whether a line that is not UTF-8 stops the reading, or is left out and counted.

    Raises:
        DataError: a file is missing, empty or not UTF-8, a split is too short, or a character has no number in a
            vocabulary without one for unknown characters.
        OptionError: units, split or one of the others make no sense.
    """

    def __init__(
        self,
        *sources: str | Path,
        units: Units = "characters",
        tokenizer: str | Path | None = None,
        split: tuple[float, float, float] = (0.9, 0.05, 0.05),
        pattern: str = "*.txt",
        vocabulary: Vocabulary | None = None,
        valid: Sequence[str | Path] = (),
        test: Sequence[str | Path] = (),
        documents: str | None = None,
        lower: bool = False,
        pretokenized: bool = False,
        min_freq: int | None = None,
        max_vocab: int | None = None,
        malformed: Malformed = "stop",
    ) -> None:
        if not sources:
            raise DataError("no text given; name at least one file or folder")
        config = TextConfig(
            _absolute(sources), _absolute(valid), _absolute(test), pattern, documents, check_units(units),
            None if tokenizer is None else Path(tokenizer).absolute(), split, lower, pretokenized, min_freq, max_vocab,
            malformed,
        )  # fmt: skip
        super().__init__(config, ErrorPolicy(malformed))
        self.separator = vocabulary.separator if vocabulary else config.separator
        files = {name: find_files(some, pattern) for name, some in zip(SPLITS, (sources, valid, test), strict=True)}
        self._fill(self._chunks(files["train"]), vocabulary, _names(files["train"]))
        for name in ("valid", "test"):
            if files[name]:
                self.items[name] = self._own(files[name])

    @classmethod
    def from_string(
        cls,
        text: str,
        *,
        units: Units = "characters",
        tokenizer: str | Path | None = None,
        split: tuple[float, float, float] = (0.9, 0.05, 0.05),
        vocabulary: Vocabulary | None = None,
        documents: str | None = None,
        lower: bool = False,
        pretokenized: bool = False,
        min_freq: int | None = None,
        max_vocab: int | None = None,
    ) -> Text:
        """Return the Text of a string that is already in memory."""
        self = object.__new__(cls)
        learned = {"lower": lower, "pretokenized": pretokenized, "min_freq": min_freq, "max_vocab": max_vocab}
        own = None if tokenizer is None else Path(tokenizer).absolute()
        config = TextConfig(
            units=check_units(units), tokenizer=own, split=split, documents=documents, **learned  # type: ignore[arg-type]
        )  # fmt: skip
        Dataset.__init__(self, config)
        self.separator = vocabulary.separator if vocabulary else config.separator
        if not text:
            raise DataError("the string is empty; expected text")
        self._fill(self._marked([Chunk(text, "the string")]), vocabulary, "the string")
        return self

    @classmethod
    def from_config(cls, config: TextConfig, vocabulary: Vocabulary | None = None) -> Text:
        """Return the Text that a configuration describes."""
        settings = {name: value for name, value in vars(config).items() if name != "text"}
        return cls(*config.text, **settings, vocabulary=vocabulary)

    def _chunks(self, files: Sequence[Path]) -> Iterator[Chunk]:
        """Yield the files one after another, each of several ended by a newline, or by the end of a document."""
        for file in files:
            end = ""
            whole = byte_chunks(file) if self.config.units == "bytes" else text_chunks(file, self.errors)
            for chunk in self._marked(whole):
                yield chunk
                end = chunk.text[-1]
            if self.separator == DOCUMENT_END:
                yield Chunk(DOCUMENT_END, str(file))
            elif len(files) > 1 and end not in ("\n", DOCUMENT_END):
                yield Chunk("\n", str(file))

    def _marked(self, chunks: Iterable[Chunk]) -> Iterable[Chunk]:
        """Return chunks of a text with separators of documents as one character."""
        return chunks if self.separator is None else marked(chunks, self.separator, DOCUMENT_END)

    def _fill(self, chunks: Iterable[Chunk], vocabulary: Vocabulary | None, place: str) -> None:
        self.place = place
        units = self.config.units
        if vocabulary and vocabulary.units != units:
            raise OptionError(f"units is {units!r}, and the vocabulary has {vocabulary.units}; expected the same")
        if vocabulary and self.config.documents is not None and vocabulary.separator != self.config.separator:
            came = f"documents is {self.config.documents!r}, and the vocabulary has {vocabulary.separator!r}"
            raise OptionError(f"{came}; expected the same, or none")
        read = self._words if units == "words" else self._characters
        self.vocabulary, encoded = read(chunks, vocabulary)
        self.items = dict(zip(SPLITS, _cut(torch.from_numpy(encoded.all), self.config.cut, place), strict=True))
        if not vocabulary and self.documents and not self.documents["train"]:
            raise DataError(
                f"no document ends in the training split of {place}: documents is {self.config.documents!r}"
            )

    def _own(self, files: Sequence[Path]) -> Tensor:
        """Return the numbers of a split that has files of its own."""
        found = torch.from_numpy(self._encoded(self._chunks(files), self.vocabulary).all)
        if len(found) < 2:
            raise DataError(f"{_names(files)} has {len(found)} symbols; expected at least 2")
        return found

    def _characters(self, chunks: Iterable[Chunk], known: Vocabulary | None) -> tuple[Vocabulary, RaggedArray]:
        """Return (vocabulary, numbers of the text); if none is known it is learned from the training split."""
        if known is None and self.config.tokenizer:
            known = SubwordVocabulary.of_file(self.config.tokenizer, separator=self.separator)
        if known is None and self.config.units != "bytes":
            # the text is put aside while its symbols are learned: it may come from a pipe
            aside, size = Strings(), 0
            for chunk in chunks:
                size += len(chunk.text)
                aside.append(chunk.text)
            known = self._learned(aside, _ends(size, self.config.cut)[0] if self.config.cut[0] else size)
            chunks = (Chunk(text, self.place) for text in aside)
        vocabulary = known or Vocabulary.of("", self.config.units)
        return vocabulary, self._encoded(chunks, vocabulary)

    def _learned(self, texts: Iterable[str], count: int) -> Vocabulary:
        """Return the vocabulary of the first characters of texts, so many."""
        some = first(texts, count)
        learned = {"min_freq": self.config.least, "max_vocab": self.config.max_vocab}
        if self.config.units == "subwords":
            documents = (document for text in some for document in text.split(DOCUMENT_END))
            return SubwordVocabulary.learn_from(documents, **learned, separator=self.separator)
        counts = Counter[str]()
        for text in some:
            counts.update(text)
        return Vocabulary.learn(counts, **learned, separator=self.separator)

    def _encoded(self, chunks: Iterable[Chunk], vocabulary: Vocabulary) -> RaggedArray:
        encoded = RaggedArray(_dtype(vocabulary))
        for chunk in chunks:
            lenient = self.errors.malformed == "skip" and vocabulary.unknown is None
            for part in lines(chunk) if lenient else (chunk,):
                try:
                    encoded.write(vocabulary.encode(part.text, part.place, part.position, part.line))
                except DataError as error:
                    if not lenient:
                        raise
                    self.errors.report(part.place, part.line, str(error), "symbols that the model knows")
        return encoded

    def _words(self, chunks: Iterable[Chunk], known: Vocabulary | None) -> tuple[Vocabulary, RaggedArray]:
        """Return (vocabulary, numbers of the text); if none is known it is learned from the training split."""
        config = self.config
        flags = {"lower": config.lower, "pretokenized": config.pretokenized}
        own = splitting(**flags, separator=self.separator)
        how = known.splitting if isinstance(known, WordVocabulary) else own
        places, read = dict[str, int](), RaggedArray()
        for chunk in chunks:
            read.write(counted(chunk.text, how, places))
        if not isinstance(known, WordVocabulary):
            numbers = torch.from_numpy(read.all)
            train = _cut(numbers, config.cut, self.place)[0] if config.cut[0] else numbers
            times = np.zeros(len(places), np.int64)
            for piece in pieces(train.numpy()):
                times += np.bincount(piece, minlength=len(places))
            counts = Counter(dict(zip(places, times.tolist(), strict=True)))
            learned = {"min_freq": config.least, "max_vocab": config.max_vocab, "separator": self.separator}
            known = WordVocabulary.learn(counts, **learned, **flags)
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
        return {name: (count, len(self.items[name])) for name, count in self._counts(number).items()}

    @cached_property
    def documents(self) -> dict[str, int] | None:
        """How many documents end in each split; None where a text is one document."""
        number = self.vocabulary.document_end
        return None if number is None else self._counts(number)

    def _counts(self, number: int) -> dict[str, int]:
        """Return how often a symbol occurs in each split."""
        return {
            name: sum(int((piece == number).sum()) for piece in pieces(p.numpy())) for name, p in self.items.items()
        }

    def content(self) -> Iterator[bytes]:
        known = self.vocabulary
        ends = () if known.separator is None else (known.separator,)
        yield repr((known.symbols, known.units, *ends)).encode("utf-8", "replace")
        for numbers in self.items.values():
            yield len(numbers).to_bytes(8, "little")
            yield from (piece.tobytes() for piece in pieces(numbers.numpy()))

    def epoch(
        self, split: str, number: int, *, batch: int, length: int = 256, seed: int = 0, jitter: int = 0
    ) -> Windows:
        """Return the batches of one pass over a split: contiguous streams, a window of `length` symbols at a time.

        Training passes differ by a random shift and, with `jitter`, in the lengths of their windows; the others keep
        every symbol, with longer and so fewer streams.

        Raises:
            DataError: the split is too short for one window.
        """
        numbers = self[split]
        where = f"the {split} split of {self.place}"
        if split != "train":
            return Windows(numbers, max(1, min(batch, len(numbers) // 4096)), length, drop_last=False, where=where)
        shift = torch.Generator().manual_seed(pass_seed(seed, number))
        spare = min(length - 1, len(numbers) - 1 - batch * length)
        start = int(torch.randint(spare + 1, (), generator=shift)) if spare > 0 else 0
        varied = shift if jitter else None
        return Windows(numbers[start:], batch, length, drop_last=True, where=where, varied=varied, jitter=jitter)

    def describe(self, batch: int) -> list[str]:
        return [repr(self)]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(numbers):,}" for name, numbers in self.items.items())
        documents = "" if self.documents is None else f", {sum(self.documents.values()):,} ends of documents"
        missing = "".join(
            f", {few:,} unknown in {name} ({few / of:.2%})" for name, (few, of) in self.unknown.items() if of
        )
        return (
            f"Text({self.place}: {sizes} {self.config.units}, {len(self.vocabulary):,} different{documents}{missing})"
        )


def _absolute(sources: Iterable[str | Path]) -> tuple[Path, ...]:
    return tuple(Path(source).absolute() for source in sources)


def _names(files: Sequence[Path]) -> str:
    return ", ".join(map(str, files[:3])) + ("…" if len(files) > 3 else "")


def _dtype(vocabulary: Vocabulary) -> str:
    return "uint8" if vocabulary.dtype == torch.uint8 else "int32"


def _cut(numbers: Tensor, split: tuple[float, ...], place: str) -> list[Tensor]:
    first, second = _ends(len(numbers), split)
    parts = [numbers[:first], numbers[first:second], numbers[second:]]
    for name, part, fraction in zip(SPLITS, parts, split, strict=True):
        if fraction and len(part) < 2:
            raise DataError(
                f"{place} has {len(numbers)} symbols, so its {name} split would have {len(part)}; expected at least 2: "
                "give more text or another split"
            )
    return parts


def _ends(count: int, split: tuple[float, ...]) -> tuple[int, int]:
    """Return where the training and the validation split end."""
    if len(split) != 3 or any(not 0 <= fraction <= 1 for fraction in split) or abs(sum(split) - 1) > 1e-9:
        raise OptionError(f"split is {split}; expected three fractions between 0 and 1 that add up to 1")
    first = round(count * split[0])
    # a split with fraction 0 stays empty, whatever the rounding
    second = count if not split[2] else first if not split[1] else round(count * (split[0] + split[1]))
    return first, second
