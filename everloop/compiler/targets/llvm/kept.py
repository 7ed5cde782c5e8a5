"""What is made of weights for a call, kept for the next calls while the weights stay what they were.

Weights are known by their memory, their place in it, and PyTorch's count of the changes to it, which fused optimisers
and writes to `.data` do not touch. So sums of their bits are compared too, stretch by stretch, and some of their
numbers. Unseen stays what leaves such a sum as it was: two numbers of one stretch that change places, past the count.
The table holds no weights: those of a layer that is gone are forgotten.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from everloop import torch_private

BYTES = 256 << 20  # that are kept in all; what was not used for longest goes first
COUNT = 1024
LEAST = 1 << 15  # numbers of the weights below which making is as quick as looking
STRETCH = 64  # times eight bytes, which are summed
SAMPLES = 2  # numbers that are compared, for each row or each column of a tensor, whichever are more


@dataclass
class _Entry:
    """made: None while the weights have been seen only once, as those in training are."""

    storages: list[torch_private.StorageWeakRef]
    versions: list[int]
    made: Tensor | None = None
    marks: Sequence[Tensor] = ()

    @property
    def size(self) -> int:
        return 0 if self.made is None else self.made.nbytes

    @property
    def is_gone(self) -> bool:
        """Whether nobody has the weights any more."""
        return any(storage.expired() for storage in self.storages)  # type: ignore[no-untyped-call]


class Kept:
    """A table of at most `count` entries and so many bytes."""

    def __init__(self, size: int = BYTES, count: int = COUNT) -> None:
        self.size, self.count, self.bytes = size, count, 0
        self._entries: dict[Hashable, _Entry] = {}  # the least recently used first
        self._lock = threading.Lock()
        self._new = 0  # entries since the last look at which weights are gone

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, what: Hashable, weights: Sequence[Tensor], make: Callable[[], Tensor]) -> Tensor | None:
        """Return what `make` makes of weights, from an earlier call or kept from now on; None where it will not be.

        what: what is made.
        """
        if sum(w.numel() for w in weights) < LEAST or not all(map(_is_known, weights)):
            return None
        storages, versions = [w.untyped_storage() for w in weights], [w._version for w in weights]
        key = what, *((s._cdata, w.storage_offset(), w.shape, w.stride(), w.dtype)
                      for s, w in zip(storages, weights, strict=True))  # fmt: skip
        with self._lock:
            found = self._entries.pop(key, None)
            if found is not None and found.versions == versions:
                self._entries[key] = found
            else:
                self.bytes -= found.size if found else 0
                weak = [torch_private.StorageWeakRef(s) for s in storages]  # type: ignore[no-untyped-call]
                self._entries[key] = _Entry(weak, versions)
                self._tidy()
                return None
        marks = [mark for w in weights for mark in _marks(w.detach())]
        if found.made is not None and all(map(torch.equal, found.marks, marks)):
            return found.made
        made = make()
        with self._lock:
            if made.nbytes > self.size or self._entries.get(key) is not found:
                return None
            self.bytes += made.nbytes - found.size
            found.marks, found.made = marks, made
            self._tidy()
        return made

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self.bytes = 0

    def _tidy(self) -> None:
        """Forget weights that are gone, from time to time, and what is too much."""
        self._new += 1
        if self._new >= len(self._entries):
            self._new = 0
            for key in [k for k, entry in self._entries.items() if entry.is_gone]:
                self.bytes -= self._entries.pop(key).size
        while self._entries and (self.bytes > self.size or len(self._entries) > self.count):
            self.bytes -= self._entries.pop(next(iter(self._entries))).size


def _is_known(weight: Tensor) -> bool:
    """Whether changes are counted, and made by this process alone."""
    return not (weight.is_inference() or weight.is_shared())  # type: ignore[no-untyped-call]


def _marks(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return what tells whether the memory of a tensor has changed: sums of its bits, and some of its numbers.

    Eight bytes are summed at a time; the numbers are at least one of each row and each column, and what is left over.
    """
    span = 1 + sum((size - 1) * stride for size, stride in zip(weight.shape, weight.stride(), strict=True))
    step = max(1, span // (SAMPLES * max(weight.shape)))
    while math.gcd(step, max(weight.stride())) > 1:  # else it would come back to the same columns
        step -= 1
    memory = weight.as_strided((span,), (1,), weight.storage_offset())
    width = 8 // weight.element_size()
    first = min(-weight.storage_offset() % width, span)
    last = first + (span - first) // (STRETCH * width) * STRETCH * width
    whole = memory[first:last]
    sums = whole.view(torch.int64).view(-1, STRETCH).sum(1) if len(whole) else whole
    return sums, torch.cat([memory[::step], memory[:first], memory[last:]])


kept = Kept()


def converted(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a weight in another dtype, kept where it is a matrix that has no gradient now."""
    if type(weight) not in (Tensor, nn.Parameter) or (torch.is_grad_enabled() and weight.requires_grad):
        return weight.to(dtype)
    found = kept.get(dtype, (weight,), lambda: weight.to(dtype))
    return weight.to(dtype) if found is None else found
