"""From a model's probabilities to answers."""

from everloop.decode.bleu import bleu
from everloop.decode.ctc import ShallowFusion, align
from everloop.decode.generate import Beam, Greedy, Sampling, generate
from everloop.decode.music import compose
from everloop.decode.sampling import probabilities, sample, stream
from everloop.decode.sketch import Sketch, sketch
from everloop.decode.tree import Branch, Tree, tree
from everloop.decode.writer import Hypothesis

__all__ = [
    "Beam",
    "Branch",
    "Greedy",
    "Hypothesis",
    "Sampling",
    "ShallowFusion",
    "Sketch",
    "Tree",
    "align",
    "bleu",
    "compose",
    "generate",
    "probabilities",
    "sample",
    "sketch",
    "stream",
    "tree",
]
