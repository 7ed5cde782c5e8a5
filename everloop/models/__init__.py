"""Models: sequences in, answers out; one file a topology."""

from everloop.models.classifier import Classifier, ClassifierConfig
from everloop.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from everloop.models.forecast import Forecast
from everloop.models.forecast_rows import forecast_frame
from everloop.models.forecaster import Forecaster, ForecasterConfig
from everloop.models.generator import Generator, GeneratorConfig
from everloop.models.kind import Kind
from everloop.models.language_model import LanguageModel, LanguageModelConfig
from everloop.models.loss import Loss, Score
from everloop.models.model import Model, detach
from everloop.models.outline import Block, Outline, Strand
from everloop.models.run import load
from everloop.models.tagger import Tagger, TaggerConfig
from everloop.models.transcriber import Transcriber, TranscriberConfig

__all__ = [
    "Block",
    "Classifier",
    "ClassifierConfig",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "Forecast",
    "Forecaster",
    "ForecasterConfig",
    "Generator",
    "GeneratorConfig",
    "Kind",
    "LanguageModel",
    "LanguageModelConfig",
    "Loss",
    "Model",
    "Outline",
    "Score",
    "Strand",
    "Tagger",
    "TaggerConfig",
    "Transcriber",
    "TranscriberConfig",
    "detach",
    "forecast_frame",
    "load",
]
