"""What a model says about a batch: the loss as a sum, so that batches of any size add up rightly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn


@dataclass(frozen=True)
class Loss:
    """The loss of one batch.

    Args:
        total: sum over the targets, in nats, a scalar that carries the graph.
        count: the number of targets.
        state: what the next batch of the same streams starts from, or None.
        sums: further figures by name, each a sum and the count to divide by (for instance accuracy).
    """

    total: Tensor
    count: int
    state: Any = None
    sums: Mapping[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def mean(self) -> Tensor:
        """Nats per target; this is what training makes smaller."""
        return self.total / self.count


@dataclass(frozen=True)
class Score:
    """A loss as plain numbers: `nats` in all over `count` targets, and means of further figures by name.

    `measure` says what the loss is counted in where it is not nats; `symbols`, whether it is the surprise at symbols,
    so that bits and perplexity mean something.
    """

    nats: float
    count: int
    means: Mapping[str, float] = field(default_factory=dict)
    measure: str = "nats"
    symbols: bool = True

    @property
    def loss(self) -> float:
        """Nats, or what `measure` says, per target."""
        return self.nats / max(self.count, 1)

    @property
    def bits(self) -> float:
        """Bits per target."""
        return self.loss / math.log(2)

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely choices that would be as hard."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    def __str__(self) -> str:
        figures = [f"{name} {mean:.4f}" for name, mean in self.means.items()]
        if self.symbols:
            loss = f"{self.loss:.4f} nats, {self.bits:.4f} bits, perplexity {self.perplexity:.3f}"
        else:
            loss = f"loss {self.loss:.4f} {self.measure}"
        return ", ".join([*figures, loss])


class Model(nn.Module):
    """What every model of Everloop gives the training loop.

    A subclass sets `kind` (its name on the command line), `target` (what its loss is counted per) and `config`
    (a dataclass), and writes `loss`. `streams` says whether it reads streams, a window of some steps at a time; else
    a batch holds whole sequences.
    """

    kind: ClassVar[str]
    streams: ClassVar[bool] = False
    config: Any

    @property
    def target(self) -> str:
        """What the loss is counted per, in the singular: "character", "word", "example"."""
        return "example"

    @property
    def measure(self) -> str:
        """What the loss is counted in."""
        return "nats"

    @property
    def symbols(self) -> bool:
        """Whether the loss is the surprise at symbols, each one of a vocabulary."""
        return False

    def loss(self, batch: Any, state: Any = None) -> Loss:
        """Return the loss of a batch whose streams continue from `state`."""
        raise NotImplementedError

    def write(self, folder: Path) -> None:
        """Write into a run folder what `config` and the weights leave out, for instance vocabularies."""

    @classmethod
    def read(cls, folder: Path, config: Any) -> Model:
        """Return an untrained model of the same shape as the one that wrote the run folder."""
        raise NotImplementedError


def detach(state: Any) -> Any:
    """Return a nested tuple of tensors without its graph: truncated backpropagation ends here."""
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, tuple | list):
        return tuple(detach(part) for part in state)
    return state
