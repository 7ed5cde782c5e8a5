"""A text as one long sequence of symbols, cut into training, validation and test splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everloop.data.batching.windows import Windows
from everloop.data.dataset import SPLITS, Dataset, pass_seed
from everloop.data.datasets.text_config import TextConfig
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.files import find_files, passed_over
from everloop.data.in_memory import column
from everloop.data.ragged import RaggedArray, Strings, pieces
from everloop.data.readers.chunks import Chunk, byte_chunks, first, lines, text_chunks
from everloop.data.readers.documents import marked
from everloop.data.readers.text_tables import column_chunks, table_format
from everloop.data.tokenize.subword_vocabulary import SubwordVocabulary
from everloop.data.tokenize.vocabulary import DOCUMENT_END, Units, Vocabulary, check_units
from everloop.data.tokenize.word_vocabulary import WordVocabulary, counted, splitting
from everloop.errors import DataError, OptionError

LONGEST = 4096  # characters of a path


class Text(Dataset[Tensor]):
    """A text from files, folders or a string: UTF-8, cut into train, valid and test in this order.

    A split is a tensor of symbol numbers; `epoch` reads it in windows, in several streams at once.

    Several files are read one after another, each ended by a newline; of a table the texts of a column.

    Args:
        sources: files, or folders of which every file that fits `pattern` is taken.
        units: "characters", "words" (and signs and ends of lines), "subwords", or "bytes" (any file, 256 symbols).
        tokenizer: of subwords, as in TextConfig.
        split: the fractions of the splits; they add up to 1, and 0 leaves a split out.
        vocabulary: numbers to use, for instance a trained model's; by default those of the training split.
        valid, test: files or folders of these splits, which are then not cut from the others.
        format, text_column, columns: how tables are read, as in TextConfig.
        documents: what ends a document, or "files", as in TextConfig; that of `vocabulary` goes first.
        lower, pretokenized, min_freq, max_vocab: which symbols are known, as in TextConfig.
        malformed: whether a line that is not UTF-8 stops the reading, or is left out and counted.

    Raises:
        DataError: a file is missing, empty or not UTF-8, a split is too short, or a character has no number in a
            vocabulary without one for unknown characters.
        OptionError: units, split or one of the others make no sense.
    """

    passed_over = ""  # what is told of files in the folders that are not read

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
        format: str = "auto",  # noqa: A002
        text_column: str = "text",
        columns: Sequence[str] = (),
        documents: str | None = None,
        lower: bool = False,
        pretokenized: bool = False,
        min_freq: int | None = None,
        max_vocab: int | None = None,
        malformed: Malformed = "stop",
    ) -> None:
        if not sources:
            raise DataError("no text given; name at least one file or folder")
        if any(isinstance(source, str) and ("\n" in source or len(source) > LONGEST) for source in sources):
            raise DataError("a text was given where a file is expected; Text.from_string reads a text")
        config = TextConfig(
            _absolute(sources), _absolute(valid), _absolute(test), pattern, format, text_column, tuple(columns),
            documents, check_units(units), None if tokenizer is None else Path(tokenizer).absolute(), split, lower,
            pretokenized, min_freq, max_vocab, malformed,
        )  # fmt: skip
        super().__init__(config, ErrorPolicy(malformed, column_advice="say which one it is (--text-column)"))
        self.separator = vocabulary.separator if vocabulary else config.separator
        given = dict(zip(SPLITS, (sources, valid, test), strict=True))
        files = {name: find_files(some, pattern, "; --pattern says which") for name, some in given.items()}
        others = passed_over(chain(*given.values()), chain(*files.values()))
        self.passed_over = f"{others} (--pattern says which are read)" if others else ""
        self._fill(self._chunks(files["train"]), vocabulary, _names(files["train"]))
        for name in ("valid", "test"):
            if files[name]:
                self.items[name] = self._own(self._chunks(files[name]), _names(files[name]))

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
    def of(
        cls, train: Any, valid: Any = None, test: Any = None, config: TextConfig | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> Text:  # fmt: skip
        """Return the Text of many texts that are in memory, each ended by a newline, or by what ends a document.

        Args:
            train, valid, test: lists of texts; frames of pandas or polars; datasets of Hugging Face or PyTorch. What
                validation and test lack is cut from training, as `split` of the configuration says.
            config: how they are read: `text_column` is the column of a frame; each text is a document with
                `documents` "files".
            vocabulary: as in the class.

        Raises:
            DataError: one is none of these, or lacks something.
        """
        config, self = config or TextConfig(), object.__new__(cls)
        given = {"valid": valid, "test": test}
        own = {name: column(some, config.text_column) for name, some in given.items() if some is not None}
        first, second, third = replace(config, valid=(Path(),) * ("valid" in own), test=(Path(),) * ("test" in own)).cut
        Dataset.__init__(self, replace(config, split=(first, second, third)))
        self.separator = vocabulary.separator if vocabulary else config.separator
        self._fill(self._joined(column(train, config.text_column), "the texts"), vocabulary, "the texts")
        for name, texts in own.items():
            self.items[name] = self._own(self._joined(texts, f"the {name} texts"), f"the {name} texts")
        return self

    @classmethod
    def from_config(cls, config: TextConfig, vocabulary: Vocabulary | None = None) -> Text:
        """Return the Text that a configuration describes."""
        settings = {name: value for name, value in vars(config).items() if name != "text"}
        return cls(*config.text, **settings, vocabulary=vocabulary)

    def _chunks(self, files: Sequence[Path]) -> Iterator[Chunk]:
        """Yield the files one after another, each of several ended by a newline, or by the end of a document."""
        for file in files:
            end, form = "", table_format(file, self.config.format)
            if self.config.units == "bytes":
                whole = byte_chunks(file)
            elif form is None:
                whole = text_chunks(file, self.errors)
            else:
                how = self.config.text_column, self.config.columns
                yield from self._marked(column_chunks(file, form, *how, self.errors, self._row_end))
                continue
            for chunk in self._marked(whole):
                yield chunk
                end = chunk.text[-1]
            if self.separator == DOCUMENT_END:
                yield Chunk(DOCUMENT_END, str(file))
            elif len(files) > 1 and end not in ("\n", DOCUMENT_END):
                yield Chunk("\n", str(file))

    @property
    def _row_end(self) -> str:
        return DOCUMENT_END if self.separator == DOCUMENT_END else "\n"

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
        end = self.vocabulary.document_end
        if not vocabulary and end is not None and not self._counts(end)["train"]:  # not `documents`, which is kept
            raise DataError(
                f"no document ends in the training split of {place}: documents is {self.config.documents!r}"
            )

    def _own(self, chunks: Iterable[Chunk], place: str) -> Tensor:
        """Return the numbers of a split of its own."""
        found = torch.from_numpy(self._encoded(chunks, self.vocabulary).all)
        if len(found) < 2:
            raise DataError(f"{place} has {len(found)} symbols; expected at least 2")
        return found

    def _joined(self, texts: Sequence[str], place: str) -> Iterable[Chunk]:
        """Return texts that are in memory, each ended."""
        if not any(texts):
            raise DataError(f"{place} are empty; expected text")
        return self._marked(Chunk(f"{text}{self._row_end}", place) for text in texts)

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
        return [repr(self), *([self.passed_over] if self.passed_over else [])]

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
