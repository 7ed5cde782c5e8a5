"""Models: sequences in, answers out; one file a topology."""

from everloop.models.language_model import LanguageModel, LanguageModelConfig
from everloop.models.loss import Loss, Model, Score
from everloop.models.run import load

__all__ = ["LanguageModel", "LanguageModelConfig", "Loss", "Model", "Score", "load"]
