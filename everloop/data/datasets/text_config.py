"""Which text a language model learns from, and how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from everloop.data.error_policy import Malformed
from everloop.data.settings import setting
from everloop.data.tokenize.vocabulary import DOCUMENT_END, MIN_FREQ, Units, check_learned
from everloop.errors import OptionError


@dataclass(frozen=True)
class TextConfig:
    """Which text is read, and how."""

    text: tuple[Path, ...] = ()
    """Text files, or folders that hold some; or tables (JSON lines, Parquet, CSV, TSV), a text a row."""
    valid: tuple[Path, ...] = ()
    """Files or folders for validation; without them, `split` cuts it from the text."""
    test: tuple[Path, ...] = ()
    """Files or folders for test; without them, `split` cuts it from the text."""
    pattern: str = "*.txt"
    """Which files of a folder are taken, such as '*.jsonl'."""
    format: str = setting("auto", absent="text")
    """What the files are: text, jsonl, json, parquet, csv, tsv, semicolons; by default as their names end, or text."""
    text_column: str = "text"
    """Tables: the column that holds the texts. Each is ended by a newline, or by what ends a document."""
    columns: tuple[str, ...] = ()
    """Tables: names of all columns of CSV or TSV without a header."""
    documents: str | None = None
    """What ends a document, at which the state begins anew: a text such as <|endoftext|>, in which \\n is the end of a
    line, or "files": the end of each file, or of each row of a table. By default all is one document."""
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
        if self.format not in ("auto", "text") and self.units == "bytes":
            raise OptionError(f"format is {self.format!r}; that is for characters, words and subwords, not for bytes")
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
