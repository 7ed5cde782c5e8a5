"""A cell or a stack as one cell whose state is one row of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from everloop.cell import Cell, advance


class Flat(nn.Module):
    """A cell or stack as one cell: its first state is all of the output, then come those of its members."""

    input_sizes: ClassVar[dict[str, int]] = {}
    output_sizes: ClassVar[dict[str, int]] = {}
    is_shaped: ClassVar[bool] = False
    noises: ClassVar[dict[str, Any]] = {}

    def __init__(self, core: Any) -> None:
        super().__init__()
        self.core = core
        self.input_size: int = core.input_size
        self.state_sizes: dict[str, int] = {"output": last(core).output_width, **dict(sizes(core))}

    def step(self, x: Tensor, _: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the output and the new states."""
        y, after = walk(self.core, x, iter(states))
        return torch.cat(list(y), -1) if isinstance(y, tuple) else y, *after


def walk(module: Any, x: Any, states: Iterator[Tensor]) -> tuple[Any, list[Tensor]]:
    """Return (output, states in order) of one step of a cell or stack, from rows of its states in order."""
    if isinstance(module, Cell):
        y, own = advance(module, x, [next(states) for _ in module.state_sizes])
        return module.by_name(y), list(own)
    after: list[Tensor] = []
    for i, member in enumerate(module.members):
        y, new = walk(member, x, states)
        after += new
        x = module.join(i, x, y)
    return x, after


def sizes(module: Any, prefix: str = "members") -> Iterator[tuple[str, int]]:
    """Yield the states of a cell or stack."""
    if isinstance(module, Cell):
        yield from ((f"{prefix}.{name}", n) for name, n in module.state_sizes.items())
    else:
        for i, member in enumerate(module.members):
            yield from sizes(member, f"{prefix}.{i}")


def last(module: Any) -> Cell:
    """Return the cell whose output is that of a cell or stack."""
    return module if isinstance(module, Cell) else last(module.members[-1])
