"""Texts and vocabularies: what models read, and in which portions."""

from everloop.data.streams import Window, Windows
from everloop.data.text import Text, TextConfig
from everloop.data.vocabulary import Vocabulary

__all__ = ["Text", "TextConfig", "Vocabulary", "Window", "Windows"]
