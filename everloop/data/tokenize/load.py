"""Vocabularies as they were saved, whatever their symbols are."""

from __future__ import annotations

from pathlib import Path

from everloop.data.tokenize.subword_vocabulary import SubwordVocabulary
from everloop.data.tokenize.vocabulary import Units, Vocabulary, read_content
from everloop.data.tokenize.word_vocabulary import WordVocabulary

KINDS: dict[Units, type[Vocabulary]] = {
    "characters": Vocabulary,
    "bytes": Vocabulary,
    "words": WordVocabulary,
    "subwords": SubwordVocabulary,
}


def load_vocabulary(path: Path) -> Vocabulary:
    """Read a vocabulary of characters, bytes, words or subwords.

    Raises:
        DataError: the file is missing, damaged or something else.
    """
    return KINDS[read_content(path)["units"]].load(path)
