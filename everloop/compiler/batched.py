"""Tensors that stand for many, as inside vmap: they have no memory that a kernel could read."""

from __future__ import annotations

from torch import Tensor

from everloop import torch_private


def is_batched(*tensors: Tensor | None) -> bool:
    """Return whether a transform of torch.func is active, or one of these comes from `is_grads_batched=True`."""
    if torch_private.has_transforms():
        return True
    return any(t is not None and torch_private.is_legacy_batched(t) for t in tensors)
