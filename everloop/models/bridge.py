"""From the last states of an encoder to the first ones of a decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from everloop.layers import Bidirectional, Recurrent, Stack
from everloop.layers.linear import Linear


class Bridge(nn.Module):
    """A learned map of each state of each layer: both directions of the encoder become one state of the decoder.

    Outputs pass a tanh (Bahdanau et al. 2015); further states, such as the memory of an LSTM, are not bounded.

    Args:
        encoder, decoder: layers of the same cell and the same number of layers.
    """

    def __init__(self, encoder: Recurrent, decoder: Recurrent) -> None:
        super().__init__()
        maps = []
        for above, below in zip(_cells(decoder.cell), _cells(encoder.cell), strict=True):
            parts = [below.ahead, below.back] if isinstance(below, Bidirectional) else [below]
            sources = [sum(sizes) for sizes in zip(*(part.state_sizes.values() for part in parts), strict=True)]
            sinks = above.state_sizes.values()
            maps.append(nn.ModuleList(Linear(a, b) for a, b in zip(sources, sinks, strict=True)))
        self.maps = nn.ModuleList(maps)
        self.stacked = isinstance(decoder.cell, Stack)
        self.paired = isinstance(_cells(encoder.cell)[0], Bidirectional)

    def forward(self, state: Any) -> tuple[Any, Tensor]:
        """Return (the decoder's first state, the encoder's last output [B, D] of both directions)."""
        levels = list(state) if self.stacked else [state]
        if self.paired:
            levels = [[torch.cat(pair, -1) for pair in zip(*level, strict=True)] for level in levels]
        levels_of_maps: Any = self.maps
        start = tuple(
            tuple(torch.tanh(f(s)) if i == 0 else f(s) for i, (f, s) in enumerate(zip(maps, level, strict=True)))
            for maps, level in zip(levels_of_maps, levels, strict=True)
        )
        return (start if self.stacked else start[0]), levels[-1][0]


def _cells(core: Any) -> list[Any]:
    return list(core.members) if isinstance(core, Stack) else [core]
