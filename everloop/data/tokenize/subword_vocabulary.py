"""The subwords a model knows, as a `tokenizer.json` of Hugging Face's tokenizers says."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everloop.data.files import read_bytes, write_atomically
from everloop.data.tokenize.vocabulary import DOCUMENT_END, Vocabulary, read_content
from everloop.errors import DataError, OptionError, UnsupportedError

FILE = "tokenizer.json"
LEAST = 257  # the bytes, and what ends a document
SIZE = 8_000  # subwords that are learned, where nothing else is said


class SubwordVocabulary(Vocabulary):
    """Subwords with the numbers that a tokenizer of the package tokenizers gives them.

    Symbols are shown as text where that is unambiguous, such as " the", else as the tokenizer names them.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        separator: what ends a document in a text, as of a Vocabulary; the tokenizer has one number for it.

    Raises:
        DataError: the tokenizer has no such separator, or knows nothing.
    """

    def __init__(self, tokenizer: Any, *, separator: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.end = None if separator is None else tokenizer.token_to_id(separator)
        if separator is not None and self.end is None:
            raise DataError(f"the tokenizer has no token {separator!r}, which is said to end documents")
        self._number(_shown(tokenizer), "subwords", None)
        self.separator, self.unknown = separator, _unknown(tokenizer)

    @classmethod
    def learn_from(
        cls, texts: Iterable[str], *, min_freq: int, max_vocab: int | None = None, separator: str | None = None
    ) -> SubwordVocabulary:
        """Return pairs of bytes merged again and again, as long as they occur often enough, so that nothing is unknown.

        Sennrich, Haddow and Birch, "Neural machine translation of rare words with subword units", ACL 2016; of bytes:
        Radford et al., "Language models are unsupervised multitask learners", 2019.

        Raises:
            OptionError: max_vocab is too small for the bytes.
        """
        if max_vocab is not None and max_vocab < LEAST:
            raise OptionError(
                f"max_vocab is {max_vocab}; expected at least {LEAST}: the bytes, and what ends documents"
            )
        library = _library()
        made = library.Tokenizer(library.models.BPE())
        made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=SIZE if max_vocab is None else max_vocab,
            min_frequency=min_freq,
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[] if separator is None else [separator],
            show_progress=False,
        )
        made.train_from_iterator(texts, trainer)
        return cls(made, separator=separator)

    @classmethod
    def of_file(cls, path: str | Path, *, separator: str | None = None) -> SubwordVocabulary:
        """Return the subwords of a `tokenizer.json`.

        Raises:
            DataError: the file is missing, or no tokenizer.
        """
        content = read_bytes(Path(path), "tokenizer")
        try:
            found = _library().Tokenizer.from_buffer(content)
        except ValueError as error:
            raise DataError(f"{path} is no tokenizer.json of Hugging Face's tokenizers: {error}") from None
        return cls(found, separator=separator)

    @property
    def identity(self) -> tuple[Any, ...]:
        return (*super().identity, self.tokenizer.to_str())

    @property
    def document_end(self) -> int | None:
        return self.end

    def __repr__(self) -> str:
        return f"SubwordVocabulary({len(self):,} symbols)"

    def encode(self, text: str, place: str = "the text", position: int = 0, line: int = 1) -> Tensor:
        """Return the numbers of a text's subwords, one axis, without those that the tokenizer would add around it."""
        if self.separator is not None:
            text = text.replace(DOCUMENT_END, self.separator)
        numbers = self.tokenizer.encode(text, add_special_tokens=False).ids
        return torch.tensor(numbers, dtype=torch.int64).to(self.dtype)

    def unknown_symbols(self, text: str) -> list[str]:
        if self.unknown is None:
            return []
        found = self.tokenizer.encode(text, add_special_tokens=False)
        return [text[a:b] for number, (a, b) in zip(found.ids, found.offsets, strict=True) if number == self.unknown]

    def stream(self, numbers: Iterable[int], after: str = "") -> Iterator[str]:
        """Yield the text of numbers as they come: a character as soon as it is complete."""
        context, pending = self.encode(after).tolist()[-4:] if after else [], list[int]()
        for number in numbers:
            pending.append(int(number))
            piece = self._text(context, pending)
            if not piece.endswith("\ufffd"):
                if piece:
                    yield piece
                context, pending = [*context, *pending][-4:], []
        if pending:
            yield self._text(context, pending)

    def _text(self, context: list[int], numbers: list[int]) -> str:
        """Return what numbers add to a text; tokenizers may write a word otherwise where a text begins."""
        before = self.tokenizer.decode(context, skip_special_tokens=False)
        return str(self.tokenizer.decode([*context, *numbers], skip_special_tokens=False))[len(before) :]

    def written(self, number: int) -> str:
        return str(self.tokenizer.decode([number], skip_special_tokens=False))

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as JSON, and `tokenizer.json` beside it, which other programs read too."""
        write_atomically(Path(path).with_name(FILE), self.tokenizer.to_str(pretty=True).encode())
        super().save(path)

    @classmethod
    def load(cls, path: str | Path) -> SubwordVocabulary:
        """Read a vocabulary written by `save`, from both its files.

        Raises:
            DataError: one is missing, damaged or something else.
        """
        content = read_content(Path(path))
        self = cls.of_file(Path(path).with_name(FILE), separator=content["separator"])
        if list(self.symbols) != content["symbols"]:
            raise DataError(f"{Path(path).with_name(FILE)} is not the tokenizer of {path}: it has other symbols")
        return self


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise UnsupportedError("subwords of a text need tokenizers: pip install 'everloop[tokenizers]'") from None
    return tokenizers


def _shown(tokenizer: Any) -> list[str]:
    """Return each symbol as text; as the tokenizer names it where two would be the same, or it is half a character."""
    count = 1 + max(tokenizer.get_vocab().values(), default=-1)  # numbers may have gaps
    names = [tokenizer.id_to_token(i) or f"<{i}>" for i in range(count)]
    texts = [tokenizer.decode([i], skip_special_tokens=False) for i in range(len(names))]
    taken, found = set(names), list[str]()
    for name, text in zip(names, texts, strict=True):
        good = bool(text) and "\ufffd" not in text and (text == name or text not in taken)
        found.append(text if good else name)
        taken.add(found[-1])
    return found


def _unknown(tokenizer: Any) -> int | None:
    model = json.loads(tokenizer.to_str())["model"]
    name = model.get("unk_token")
    return model.get("unk_id") if name is None else tokenizer.token_to_id(name)  # type: ignore[no-any-return]
