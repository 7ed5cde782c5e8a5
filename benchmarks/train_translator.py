"""Training a translator with attention as the recipe multi30k_attention does, Everloop beside plain PyTorch.

Sentences are drawn at random, as long in pieces as those of Multi30k. Plain PyTorch packs what the encoder reads.
"""

from __future__ import annotations

import torch

from benchmarks.training import Peers, main, sentences, settings
from everloop.data.datasets.parallel import Parallel
from everloop.data.tokenize.pieces import Pieces
from everloop.models import EncoderDecoder, EncoderDecoderConfig

DECILES = (3, 9, 10, 11, 12, 13, 14, 15, 17, 20, 45)  # pieces of a sentence
PIECES = (6_000, 6_000)  # of both languages


def peers(count: int = 2_000, pieces: tuple[int, int] = PIECES, **changed: object) -> Peers:
    """Return what is trained; of the model's settings some changed."""
    config, training = settings("multi30k_attention", EncoderDecoderConfig, **changed)
    names = [[f"w{number}" for number in range(many)] for many in pieces]
    # both sides of a pair are about as long: lengths are drawn alike, then come in the same order
    sides = [sorted(sentences(count, known, DECILES, seed), key=len) for seed, known in enumerate(names)]
    pairs = [(" ".join(a), " ".join(b)) for a, b in zip(*sides, strict=True)]
    read, written = (Pieces(f"▁{name}" for name in known) for known in names)
    data = Parallel(pairs, pieces=(read, written))
    torch.manual_seed(0)
    ours = EncoderDecoder.from_config(data.source, data.target, config)
    return Peers.of(ours, data, training)


if __name__ == "__main__":
    main(__doc__, peers, steps=6)
