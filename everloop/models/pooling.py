"""From a sequence to one vector: its last step, the mean, the largest values, or a mean weighted by attention."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from everloop.data.batching.batch import sequence_mask
from everloop.errors import OptionError, unknown
from everloop.layers.linear import Linear, needs_torch

PoolingMethod = Literal["last", "mean", "max", "attention"]


class Pooling(nn.Module):
    """One vector of a sequence, padding left out; zeros of an empty one.

    "last" takes from a layer in both directions what each has read last. "attention" weighs the steps by
    v · tanh(W y): Yang et al., "Hierarchical attention networks for document classification", NAACL 2016.

    Args:
        method: "last", "mean", "max" or "attention".
        size: numbers in a step.
        bidirectional: whether the second half of them comes from the other direction.
    """

    def __init__(self, method: PoolingMethod, size: int, *, bidirectional: bool = False) -> None:
        super().__init__()
        if method not in get_args(PoolingMethod):
            raise OptionError(unknown("pooling", method, get_args(PoolingMethod)))
        self.method, self.ahead = method, size // 2 if bidirectional else size
        if method == "attention":
            self.hidden = Linear(size, size)
            self.score = Linear(size, 1, bias=False)

    def forward(self, y: Tensor, lengths: Tensor) -> Tensor:
        """Return [B, n] for y [T, B, n] and lengths [B]."""
        if self.method == "last":
            return self._last(y, lengths)
        if self.method == "attention":
            return (self.weights(y, lengths)[..., None] * y).sum(0)
        ended = ~sequence_mask(lengths, len(y))[..., None]
        if self.method == "mean":
            return y.masked_fill(ended, 0).sum(0) / lengths.clamp_min(1)[:, None]
        return _largest(y, ended).masked_fill((lengths == 0)[:, None], 0)

    def weights(self, y: Tensor, lengths: Tensor) -> Tensor:
        """Return how much each step counts [T, B]; they add up to 1, to 0 for an empty sequence."""
        scores = self.score(torch.tanh(self.hidden(y)))[..., 0]
        mask = sequence_mask(lengths, len(y))
        # finite, so that an empty sequence gives zeros and no NaN
        weights = scores.masked_fill(~mask, torch.finfo(y.dtype).min).softmax(0)
        return weights * mask  # type: ignore[no-any-return]

    def _last(self, y: Tensor, lengths: Tensor) -> Tensor:
        ends = (lengths - 1).clamp_min(0)
        ahead = y[ends, torch.arange(y.shape[1], device=y.device), : self.ahead]
        both = torch.cat([ahead, y[0, :, self.ahead :]], -1)
        return both.masked_fill((lengths == 0)[:, None], 0)

    def extra_repr(self) -> str:
        return self.method


def _largest(y: Tensor, ended: Tensor) -> Tensor:
    """Return the largest values over time, where `ended` is false."""
    if needs_torch(y):
        return y.masked_fill(ended, -torch.inf).amax(0)
    return _Largest.apply(y, ended)  # type: ignore[no-untyped-call,no-any-return]


class _Largest(torch.autograd.Function):
    """The gradient is that of amax, in a fifth of the time."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, ended: Tensor) -> Tensor:
        rows = y.masked_fill(ended, -torch.inf)
        largest = rows.amax(0)
        ctx.save_for_backward(rows, largest, ended)
        return largest

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        rows, largest, ended = ctx.saved_tensors
        share = rows.clone().eq_(largest)  # steps that are equally large share the gradient; numbers, as == is slower
        return (share * (grads[0] / share.sum(0))).masked_fill(ended, 0), None
