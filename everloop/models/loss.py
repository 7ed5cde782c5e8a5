"""What a model says about a batch: the loss as a sum, so that batches of any size add up rightly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from everloop.layers.linear_cross_entropy import linear_cross_entropy, with_likeliest


@dataclass(frozen=True)
class Loss:
    """The loss of one batch.

    Args:
        total: sum over the targets, in nats, a scalar that carries the graph.
        count: the number of targets.
        state: what the next batch of the same streams starts from, or None.
        penalty: what training adds to the mean, which is not shown: a regularisation.
        sums: further figures by name, each a sum and the count to divide by (for instance accuracy).
    """

    total: Tensor
    count: int
    state: Any = None
    sums: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    penalty: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """Nats per target, and the penalty; this is what training makes smaller."""
        mean = self.total / self.count
        return mean if self.penalty is None else mean + self.penalty


@dataclass(frozen=True)
class Score:
    """A loss as plain numbers: `nats` in all over `count` targets, and means of further figures by name.

    `measure` says what the loss is counted in where it is not nats; `symbols`, whether it is the negative
    log-likelihood of symbols, so that bits and perplexity mean something.
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


def symbols_loss(head: nn.Linear, rows: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross entropy in all of what a head says of rows [..., n] about symbols [...]."""
    return linear_cross_entropy(
        rows, head.weight, targets, linear_bias=head.bias, reduction="sum", label_smoothing=smoothing
    )


def activation_penalty(
    dropped: Tensor, y: Tensor, activation: float, temporal: float, *, begins: Tensor | None = None
) -> Tensor:
    """Return what large outputs [T, B, n] of layers cost, after dropout, and large changes of them, before it.

    begins: bool [T, B], the steps that begin anew; no change leads to them.

    Merity, McCann and Socher, "Revisiting activation regularization for language RNNs", 2017: AR and TAR.
    """
    cost = activation * dropped.square().mean()
    changes = y.diff(dim=0)
    changes = changes if begins is None else changes[~begins[1:]]
    return cost + temporal * changes.square().mean() if changes.numel() else cost


def symbols_loss_and_right(head: nn.Linear, rows: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Return (the cross entropy in all of what a head says of rows [N, n], how many of the likeliest are right)."""
    total, likeliest = with_likeliest(rows, head.weight, targets, head.bias)
    return total, int((likeliest == targets).sum())
