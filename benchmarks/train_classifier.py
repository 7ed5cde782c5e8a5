"""Training a classifier of sentences as the recipe sst2 does, Everloop beside plain PyTorch with packed sequences.

Sentences are drawn at random, as long as those of SST-2. Without `recurrent_dropout`, which torch.nn.LSTM has not.
"""

from __future__ import annotations

import random

import torch

from benchmarks.training import Peers, main, sentences, settings
from everloop.data.datasets.examples import Examples, Part
from everloop.data.tokenize.symbols import READ, Symbols
from everloop.data.tokenize.words import TextTokenizer
from everloop.models import Classifier, ClassifierConfig

DECILES = (1, 7, 10, 13, 16, 18, 21, 24, 27, 32, 56)  # words of a sentence
WORDS = 7_196  # that occur at least twice


def peers(count: int = 2_000, words: int = WORDS, **changed: object) -> Peers:
    """Return what is trained; of the model's settings some changed."""
    config, training = settings("sst2", ClassifierConfig, recurrent_dropout=0.0, **changed)
    names = [f"w{number}" for number in range(words)]
    texts = [" ".join(words) for words in sentences(count, names, DECILES)]
    labels = random.Random(0).choices("01", k=count)
    part = Part(texts.__getitem__, labels, text=True, digest="random")
    data = Examples({"train": part}, tokenizer=TextTokenizer(Symbols((*READ, *names))))
    torch.manual_seed(0)
    ours = Classifier.of(data, config)
    return Peers.of(ours, data, training)


if __name__ == "__main__":
    main(__doc__, peers, steps=40)
