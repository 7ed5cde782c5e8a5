"""The form of a batch of sequences: what comes packed, batch-first or without a batch goes back so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from everloop.layers.nested import map_state


@dataclass(frozen=True)
class InputForm:
    """How x came. packed: as this batch, its sequences by falling length; is_single: [T, I]; batch_first: [B, T, I]."""

    is_single: bool = False
    batch_first: bool = False
    packed: PackedSequence | None = None

    def inward(self, x: Tensor) -> Tensor:
        """Return x, or what there is of each step and sequence, as [T, B, ...]."""
        if self.is_single:
            return x.unsqueeze(1)
        return x.transpose(0, 1) if self.batch_first else x

    def outward(self, y: Tensor, lengths: Tensor | None) -> Any:
        """Return y [T, B, n] in this form."""
        if self.packed is not None:
            assert lengths is not None
            data = pack_padded_sequence(y, lengths.cpu()).data
            return PackedSequence(data, *self.packed[1:])
        if self.is_single:
            return y.squeeze(1)
        return y.transpose(0, 1) if self.batch_first else y

    def state_inward(self, state: Any, axis: int = 0) -> Any:
        """Return a nested state with the batch as `axis`, in the order of the batch."""
        return self._state(state, lambda s: s.unsqueeze(axis), "sorted_indices", axis)

    def state_outward(self, state: Any, axis: int = 0) -> Any:
        """Return a nested state as the caller knows it."""
        return self._state(state, lambda s: s.squeeze(axis), "unsorted_indices", axis)

    def _state(self, state: Any, of_single: Callable[[Tensor], Tensor], order: str, axis: int) -> Any:
        if self.is_single:
            return map_state(of_single, state)
        indices = None if self.packed is None else getattr(self.packed, order)
        return state if indices is None else map_state(lambda s: s.index_select(axis, indices), state)


def unpack(packed: PackedSequence) -> tuple[Tensor, Tensor]:
    """Return (x [T, B, I], lengths [B]) of a packed batch, its sequences by falling length."""
    x, lengths = pad_packed_sequence(PackedSequence(packed.data, packed.batch_sizes))
    return x, lengths.to(x.device)
