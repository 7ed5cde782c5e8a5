"""Data for training: texts, tables, sentences, series, sound and strokes, from files to batches."""

from everloop.data.augmentation import AugmentConfig
from everloop.data.batching.windows import Window, Windows
from everloop.data.dataset import Dataset, SequenceDataset
from everloop.data.datasets.conditions import Conditions, ConditionsConfig
from everloop.data.datasets.digits import DigitsConfig, DigitStrings
from everloop.data.datasets.examples import Examples, ExamplesConfig, Part
from everloop.data.datasets.handwriting import GlyphsConfig, GlyphStrings, Handwriting, HandwritingConfig
from everloop.data.datasets.parallel import Parallel, ParallelConfig
from everloop.data.datasets.plans import Plans
from everloop.data.datasets.recordings import AudioConfig, Recordings
from everloop.data.datasets.series import Series
from everloop.data.datasets.series_config import SeriesConfig
from everloop.data.datasets.strokes import Strokes, StrokesConfig
from everloop.data.datasets.tagged import Tagged, TaggedConfig
from everloop.data.datasets.text import Text
from everloop.data.datasets.text_config import TextConfig
from everloop.data.error_policy import ErrorPolicy
from everloop.data.frames import FrameConfig
from everloop.data.pictures import PictureSize
from everloop.data.tokenize.pieces import Pieces
from everloop.data.tokenize.subword_vocabulary import SubwordVocabulary
from everloop.data.tokenize.symbols import Symbols
from everloop.data.tokenize.vocabulary import Vocabulary
from everloop.data.tokenize.word_vocabulary import WordVocabulary
from everloop.data.tokenize.words import TextTokenizer, WordTokenizer

__all__ = [
    "AudioConfig",
    "AugmentConfig",
    "Conditions",
    "ConditionsConfig",
    "Dataset",
    "DigitStrings",
    "DigitsConfig",
    "ErrorPolicy",
    "Examples",
    "ExamplesConfig",
    "FrameConfig",
    "GlyphStrings",
    "GlyphsConfig",
    "Handwriting",
    "HandwritingConfig",
    "Parallel",
    "ParallelConfig",
    "Part",
    "PictureSize",
    "Pieces",
    "Plans",
    "Recordings",
    "SequenceDataset",
    "Series",
    "SeriesConfig",
    "Strokes",
    "StrokesConfig",
    "SubwordVocabulary",
    "Symbols",
    "Tagged",
    "TaggedConfig",
    "Text",
    "TextConfig",
    "TextTokenizer",
    "Vocabulary",
    "Window",
    "Windows",
    "WordTokenizer",
    "WordVocabulary",
]
