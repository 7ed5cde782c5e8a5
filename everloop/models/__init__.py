"""Models: sequences in, answers out; one file a topology."""

from everloop.models.classifier import Classifier, ClassifierConfig
from everloop.models.forecaster import Forecaster, ForecasterConfig
from everloop.models.language_model import LanguageModel, LanguageModelConfig
from everloop.models.loss import Loss, Model, Score
from everloop.models.run import load
from everloop.models.tagger import Tagger, TaggerConfig

__all__ = [
    "Classifier",
    "ClassifierConfig",
    "Forecaster",
    "ForecasterConfig",
    "LanguageModel",
    "LanguageModelConfig",
    "Loss",
    "Model",
    "Score",
    "Tagger",
    "TaggerConfig",
    "load",
]
