"""A cell or a stack as one cell whose state is one row of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from everloop.cell import Cell, as_states


class Flat(nn.Module):
    """A cell or stack as one cell: its first state is the output, then come those of its members."""

    def __init__(self, core: Any) -> None:
        super().__init__()
        self.core = core
        self.input_size: int = core.input_size
        self.state_sizes: dict[str, int] = {"output": core.output_size, **dict(sizes(core))}

    def step(self, x: Tensor, _: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the output and the new states."""
        y, after = _walk(self.core, x, iter(states))
        return y, *after


def _walk(module: Any, x: Tensor, states: Iterator[Tensor]) -> tuple[Tensor, list[Tensor]]:
    if isinstance(module, Cell):
        after = list(as_states(module, module.step(x, *(next(states) for _ in module.state_sizes))))
        return after[0], after
    after = []
    for i, member in enumerate(module.members):
        y, new = _walk(member, x, states)
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
    """Return the cell whose first state is the output."""
    return module if isinstance(module, Cell) else last(module.members[-1])
