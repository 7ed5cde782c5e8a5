"""From a model's probabilities to answers."""

from everloop.decode.sampling import probabilities, sample, stream

__all__ = ["probabilities", "sample", "stream"]
