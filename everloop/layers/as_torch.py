"""A Recurrent layer that is called as torch.nn's RNN, LSTM and GRU are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from everloop.layers.bidirectional import Bidirectional
from everloop.layers.recurrent import Recurrent
from everloop.layers.stack import Stack
from everloop.layers.torch_nn import GRU, LSTM, RNN


class AsTorch(nn.Module):
    """A Recurrent layer with the arguments, states and results of a layer of torch.nn.

    States are [layers * directions, B, n], a pair of them for an LSTM. `recurrent` is the layer inside.
    """

    def __init__(self, recurrent: Recurrent, *, layers: int, bidirectional: bool, is_pair: bool) -> None:
        super().__init__()
        self.recurrent, self.layers, self.bidirectional, self.is_pair = recurrent, layers, bidirectional, is_pair

    @classmethod
    def of(cls, layer: RNN | LSTM | GRU) -> AsTorch:
        """Return the same layer in evaluation, with copies of its weights."""
        levels = [Bidirectional(*cells) if layer.bidirectional else cells[0] for cells in layer.cells()]
        core = levels[0] if len(levels) == 1 else Stack(levels)
        recurrent = Recurrent(core, batch_first=layer.batch_first).eval()
        return cls(recurrent, layers=len(levels), bidirectional=layer.bidirectional, is_pair=isinstance(layer, LSTM))

    def forward(
        self,
        input: Tensor | PackedSequence,  # noqa: A002 - torch.nn's names
        hx: Any = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Any, Any]:
        """Return (output, hidden state), as the layer of torch.nn; arguments as of `everloop.LSTM`."""
        y, state = self.recurrent(input, self._nested(hx), lengths=lengths, reset=reset)
        return y, self._stacked(state)

    def step(self, x_t: Tensor, state: Any = None, *, reset: Tensor | None = None) -> tuple[Tensor, Any]:
        """Return (output, hidden state) after one step more; as `Recurrent.step`, with the states of torch.nn."""
        y, after = self.recurrent.step(x_t, self._nested(state), reset=reset)
        return y, self._stacked(after)

    def explain(self) -> str:
        """Return which target runs each cell, and why."""
        return self.recurrent.explain()

    def _nested(self, hx: Any) -> Any:
        if hx is None:
            return None
        parts = hx if self.is_pair else (hx,)
        cells = list(zip(*(part.unbind(0) for part in parts), strict=True))
        levels = list(zip(cells[::2], cells[1::2], strict=True)) if self.bidirectional else cells
        return tuple(levels) if self.layers > 1 else levels[0]

    def _stacked(self, state: Any) -> Any:
        levels = state if self.layers > 1 else (state,)
        cells = [cell for level in levels for cell in level] if self.bidirectional else levels
        found = tuple(torch.stack(parts) for parts in zip(*cells, strict=True))
        return found if self.is_pair else found[0]
