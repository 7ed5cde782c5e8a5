"""Words and the same words backwards, for the tests of everything that translates."""

from __future__ import annotations

import random

from everloop.data.datasets.parallel import Parallel


def backwards(count: int = 600, letters: str = "abcdefgh", longest: int = 7, seed: int = 0) -> Parallel:
    """Return pairs: some letters, and the same from the last to the first."""
    chance = random.Random(seed)
    pairs = []
    for _ in range(count):
        words = [chance.choice(letters) for _ in range(chance.randint(2, longest))]
        pairs.append((" ".join(words), " ".join(reversed(words))))
    return Parallel(pairs[count // 6 :], pairs[: count // 6])
