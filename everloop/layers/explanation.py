"""Which target runs each cell of a layer, and why."""

from __future__ import annotations

import torch
from torch import nn

from everloop.cell import Cell
from everloop.layers.dispatch import explain
from everloop.layers.dropout import values_of


def explanation(module: nn.Module, name: str = "cell", target: str | None = None) -> str:
    """Return, for every cell inside `module`, its name, its target and the plan of its compiled step."""
    if not isinstance(module, Cell):
        inside = [(f"{name}.{key}", child) for key, child in module.named_children()]
        return "\n\n\n".join(found for key, child in inside if (found := explanation(child, key, target)))
    like = next(module.parameters(), torch.empty(0))
    x = like.new_zeros(1, 1, module.input_size)
    return f"{name} ({type(module).__name__}): {explain(module, values_of(module, 1, 1), x, target)}"
