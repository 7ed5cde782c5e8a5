"""One step of a cell or stack in PyTorch's own functions, with gradients: what compiled steps do without."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from everloop.cell import bind
from everloop.layers.extras import paths
from everloop.layers.flatten import walk
from everloop.layers.nested import each, leaves


def step(core: Any, x: Tensor, states: Sequence[Tensor], given: Mapping[str, Tensor]) -> tuple[Any, list[Tensor]]:
    """Return (output, new states in order) of x [B, I] or [I]; none of them lies in the memory of another.

    given: further inputs and contexts by name.
    """
    count = math.prod(x.shape[:-1])

    def rows(tensor: Tensor) -> Tensor:
        return tensor if x.dim() == 2 else tensor[None]

    given = {name: rows(tensor) for name, tensor in given.items()}
    y, after = _walked(core, rows(x), (rows(s).flatten(1) for s in states), given)
    memory, new = {_memory(x)}, list[Tensor]()
    for tensor, before in zip(after, states, strict=True):
        new.append(_apart(tensor.expand(count, before.numel() // count), memory).reshape(before.shape))
        memory.add(_memory(new[-1]))
    return each(lambda part: _apart(part, memory).reshape(*x.shape[:-1], part.shape[-1]), y), new


def backpropagates(core: Any, x: Tensor, states: Sequence[Tensor], given: Mapping[str, Tensor]) -> bool:
    """Return whether PyTorch has the gradients of the step as it is written: it refuses some changes in place."""
    with torch.enable_grad():
        read = [t.requires_grad_() for t in (x, *states)]
        y, after = _walked(core, x, (s.flatten(1) for s in states), given)
        results = [t for t in (*leaves(y), *after) if t.requires_grad]
        if not results:
            return True
        try:
            torch.autograd.grad(results, read, [torch.ones_like(t) for t in results], allow_unused=True)
        except RuntimeError:
            return False
    return True


def _walked(core: Any, x: Tensor, states: Iterable[Tensor], given: Mapping[str, Tensor]) -> tuple[Any, list[Tensor]]:
    bound = {path: given[name] for path, name in paths(core).items()}
    return walk(bind(core, bound) if bound else core, x, iter(states))


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _apart(tensor: Tensor, memory: Collection[int]) -> Tensor:
    """Return a tensor, or a copy where it lies in memory that something else has."""
    return tensor.clone() if _memory(tensor) in memory else tensor
