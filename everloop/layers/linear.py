"""The linear layer of all models: PyTorch's, whose large products are made by who is quicker."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everloop import torch_private
from everloop.compiler.batched import is_batched
from everloop.compiler.target import products
from everloop.layers.precision import autocast_dtype

SMALL = 1 << 24  # multiplications for which PyTorch's shorter call is as quick or quicker
KINDS = (Tensor, nn.Parameter)


class Linear(nn.Linear):
    """torch.nn.Linear, in its names, numbers and errors; how it multiplies, `linear` says."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return F.linear(x, weight, bias), a large product of one dtype by the target that compiles loops of it.

    Who multiplies depends on sizes, dtype and the kind of processor, never on a measurement: equal calls give equal
    numbers on the same machine. PyTorch does all others, all under autocast, and what must see its single operations.
    """
    # What torch.fx traces is no tensor, and has no size to compare.
    if (
        type(x) not in KINDS
        or x.numel() * weight.shape[0] < SMALL
        or needs_torch(x, weight, bias)
        or autocast_dtype(x) is not None
        or torch_private.count_dispatch_modes()
    ):
        return F.linear(x, weight, bias)
    return products(x.dtype, x.device).linear(x, weight, bias)


def needs_torch(*tensors: Tensor | None) -> bool:
    """Return whether something transforms operations of PyTorch, or these have no numbers that others can read."""
    return (
        torch.compiler.is_compiling()
        or torch_private.is_forward_mode()
        or torch_private.tracing_state() is not None
        or is_batched(*tensors)
        or any(t is not None and (type(t) not in KINDS or t.is_meta) for t in tensors)
    )
