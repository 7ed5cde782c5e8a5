"""What models read, and in which portions: texts, tables, sentences, series, sound, strokes."""

from everloop.data.audio import AudioConfig, FrameConfig, Recordings
from everloop.data.conditions import Conditions, ConditionsConfig
from everloop.data.digits import DigitsConfig, DigitStrings
from everloop.data.examples import Examples, ExamplesConfig, Part
from everloop.data.faults import Faults
from everloop.data.forecasts import Plans, Series, SeriesConfig
from everloop.data.parallel import Parallel, ParallelConfig
from everloop.data.pieces import Pieces
from everloop.data.streams import Window, Windows
from everloop.data.strokes import Strokes, StrokesConfig
from everloop.data.symbols import Symbols
from everloop.data.tagged import Tagged, TaggedConfig
from everloop.data.text import Text, TextConfig
from everloop.data.vocabulary import Vocabulary
from everloop.data.word_vocabulary import WordVocabulary
from everloop.data.words import TextReader, WordReader

__all__ = [
    "AudioConfig",
    "Conditions",
    "ConditionsConfig",
    "DigitStrings",
    "DigitsConfig",
    "Examples",
    "ExamplesConfig",
    "Faults",
    "FrameConfig",
    "Parallel",
    "ParallelConfig",
    "Part",
    "Pieces",
    "Plans",
    "Recordings",
    "Series",
    "SeriesConfig",
    "Strokes",
    "StrokesConfig",
    "Symbols",
    "Tagged",
    "TaggedConfig",
    "Text",
    "TextConfig",
    "TextReader",
    "Vocabulary",
    "Window",
    "Windows",
    "WordReader",
    "WordVocabulary",
]
