"""Tensors that stand for many, as inside vmap: they have no memory that a kernel could read."""

from __future__ import annotations

import torch
from torch import Tensor


def is_batched(*tensors: Tensor | None) -> bool:
    """Return whether a transform of torch.func is active, or one of these comes from `is_grads_batched=True`."""
    if torch._C._are_functorch_transforms_active():
        return True
    return any(t is not None and torch._C._functorch.is_legacy_batchedtensor(t) for t in tensors)
