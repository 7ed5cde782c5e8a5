"""Training a tagger of words and their spelling as the recipe ud_english_upos does, Everloop beside plain PyTorch.

Sentences and words are drawn at random, as long as those of UD English EWT. Plain PyTorch packs both, words and
letters, and spells each different word of a batch once too.
"""

from __future__ import annotations

import random
from string import ascii_letters

import torch

from benchmarks.training import Peers, drawn, main, sentences, settings
from everloop.data.datasets.tagged import Tagged
from everloop.data.tokenize.symbols import READ, Symbols
from everloop.data.tokenize.words import WordTokenizer
from everloop.models import Tagger, TaggerConfig

DECILES = (1, 3, 6, 9, 11, 14, 17, 20, 25, 32, 159)  # words of a sentence
LETTERS = (1, 2, 3, 4, 4, 5, 5, 6, 7, 9, 24)  # of the different words of a batch
WORDS, KNOWN, TAGS = 19_674, 8_865, 17


def peers(count: int = 2_000, words: int = WORDS, **changed: object) -> Peers:
    """Return what is trained; of the model's settings some changed."""
    config, training = settings("ud_english_upos", TaggerConfig, **changed)
    source = random.Random(0)
    lengths = drawn(words, LETTERS, source)
    names = list({"".join(source.choices(ascii_letters, k=length)): None for length in lengths})
    said = sentences(count, names, DECILES)
    tags = [source.choices([f"T{n}" for n in range(TAGS)], k=len(words)) for words in said]
    tokenizer = WordTokenizer(Symbols((*READ, *names[:KNOWN])), Symbols((*READ, *ascii_letters)), lower=False)
    data = Tagged({"train": list(zip(said, tags, strict=True))}, tokenizer=tokenizer)
    torch.manual_seed(0)
    ours = Tagger.of(data, config)
    return Peers.of(ours, data, training)


if __name__ == "__main__":
    main(__doc__, peers, steps=20)
