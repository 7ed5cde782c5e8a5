"""Is what a model of chorales composes like chorales? Counts on its continuations beside those of the pieces.

    python -m benchmarks.chorales runs/chorales jsb-chorales-quarter.json

Each test piece is continued from its first 16 steps by 32, at some temperatures, with and without a number of voices.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from everloop.data.readers.chorales import read_chorales
from everloop.decode import compose
from everloop.models import load

GIVEN, LENGTH = 16, 32
# temperature, voices, semitones between keys at the least
WAYS: tuple[tuple[float, int | None, int], ...] = (
    *((1.0, None, 1), (0.7, None, 1), (1.0, 4, 1), (0.7, 4, 1), (1.0, 4, 2), (0.7, 4, 2), (0.5, 4, 2)),
)


@dataclass(frozen=True)
class Counts:
    """Shares over steps: exactly four keys, two neighbouring keys at once; and of the keys, those that go on."""

    keys: float
    four: float
    clash: float
    on: float

    @classmethod
    def of(cls, rolls: Iterable[Tensor]) -> Counts:
        """Return the counts of pieces [T, 88]."""
        pieces = [roll > 0.5 for roll in rolls]
        keys = torch.cat([piece.sum(1) for piece in pieces]).double()
        clash = torch.cat([(piece[:, 1:] & piece[:, :-1]).any(1) for piece in pieces]).double()
        later = sum(int(piece[1:].sum()) for piece in pieces)
        on = sum(int((piece[1:] & piece[:-1]).sum()) for piece in pieces)
        return cls(float(keys.mean()), float((keys == 4).double().mean()), float(clash.mean()), on / max(1, later))

    def __str__(self) -> str:
        return f"{self.keys:.2f} keys, four in {self.four:.0%}, neighbours in {self.clash:.1%}, {self.on:.0%} go on"


def main(run: str, chorales: str) -> None:
    """Print the counts of the test pieces, and of what follows their beginnings."""
    torch.set_num_threads(1)
    pieces = [piece for piece in read_chorales(chorales)["test"] if len(piece) >= GIVEN]
    print(f"the {len(pieces)} pieces, from step {GIVEN + 1} on: {Counts.of(piece[GIVEN:] for piece in pieces)}")
    model = load(run)
    for temperature, voices, apart in WAYS:
        how: dict[str, Any] = {"length": LENGTH, "temperature": temperature, "voices": voices, "apart": apart}
        steps = [compose(model, piece[:GIVEN], seed=number, **how) for number, piece in enumerate(pieces)]
        said = f"temperature {temperature}" + (f", {voices} voices" if voices else "")
        said += f", at least {apart} semitones apart" if apart > 1 else ""
        print(f"composed at {said}: {Counts.of(torch.stack(list(one)) for one in steps)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
