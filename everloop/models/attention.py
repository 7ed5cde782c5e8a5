"""Attention: for each step of one sequence, which steps of another matter, and their weighted mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from everloop.data.batching.batch import sequence_mask
from everloop.errors import OptionError, unknown
from everloop.layers.linear import Linear

Scoring = Literal["multiplicative", "additive"]


@dataclass(frozen=True)
class Memory:
    """What is attended to: values [B, S, D], what they are found by [B, S, K], which of them exist [B, S].

    A row belongs to a source, so the hypotheses of a beam search share it as long as they stay with their source.
    """

    values: Tensor
    keys: Tensor
    mask: Tensor

    def rows(self, index: Tensor) -> Memory:
        """Return the memory with these rows."""
        return Memory(self.values[index], self.keys[index], self.mask[index])


class Attention(nn.Module):
    """The mean of a memory, weighted by how well each of its steps fits a query.

    "additive" is v · tanh(W q + U m): Bahdanau, Cho and Bengio, "Neural machine translation by jointly learning to
    align and translate", ICLR 2015. "multiplicative" is q · W m: Luong, Pham and Manning, "Effective approaches to
    attention-based neural machine translation", EMNLP 2015 (their "general").

    Args:
        query_size: Q, numbers in a query.
        memory_size: D, numbers in a step of the memory.
        scoring: "multiplicative" or "additive".
        size: A, units of the additive score; None: Q.
    """

    def __init__(
        self, query_size: int, memory_size: int, scoring: Scoring = "multiplicative", size: int | None = None
    ) -> None:
        super().__init__()
        if scoring not in get_args(Scoring):
            raise OptionError(unknown("attention", scoring, get_args(Scoring)))
        self.scoring = scoring
        if scoring == "multiplicative":
            self.key = Linear(memory_size, query_size, bias=False)
        else:
            size = size or query_size
            self.key = Linear(memory_size, size)
            self.query = Linear(query_size, size, bias=False)
            self.v = nn.Parameter(torch.empty(size).uniform_(-(size**-0.5), size**-0.5))

    def remember(self, values: Tensor, lengths: Tensor) -> Memory:
        """Return the memory of values [S, B, D] of these lengths [B]; what does not depend on queries is done here."""
        rows = values.transpose(0, 1)
        mask = sequence_mask(lengths, len(values)).T
        return Memory(rows, self.key(rows), mask)

    def forward(self, queries: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Return (means [T, B, D], weights [T, B, S]) for queries [T, B, Q]."""
        rows = queries.transpose(0, 1)
        if self.scoring == "multiplicative":
            scores = rows @ memory.keys.transpose(1, 2)
        else:
            scores = torch.tanh(self.query(rows)[:, :, None] + memory.keys[:, None]) @ self.v
        weights = scores.masked_fill(~memory.mask[:, None], -torch.inf).softmax(-1)
        return (weights @ memory.values).transpose(0, 1), weights.transpose(0, 1)
