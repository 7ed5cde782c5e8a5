"""Several cells, one above the other, used as one bigger cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from everloop.cell import Cell
from everloop.errors import CellError, OptionError, ShapeError
from everloop.layers.bidirectional import Bidirectional
from everloop.layers.dropout import checked_rate, row_dropout


class Stack(nn.Module):
    """Cells of any kinds and sizes, each reading the output of the one below.

    The state is the tuple of the members' states. With one time step, `forward(x, state)` is that of a cell;
    `Recurrent(Stack(...))` runs it over time and may then also hold Bidirectional members. Of a member that declares
    several outputs, the one above reads the first; those of the last member are the stack's.

    Args:
        members: cells, stacks or Bidirectional, from the bottom up.
        dropout: rate on the output of every member but the last, in training (as torch.nn's `dropout`).
        residual: add to each output of a member its input, where the sizes are equal.

    Raises:
        CellError: a member is something else.
        ShapeError: a member's input size is not the output size of the one below.
    """

    def __init__(
        self, members: Sequence[Cell | Stack | Bidirectional], *, dropout: float = 0.0, residual: bool = False
    ) -> None:
        super().__init__()
        if not isinstance(members, Iterable):
            came = members.__name__ if isinstance(members, type) else type(members).__name__
            raise CellError(f"Stack: members is {came}; expected a list of cells, as in Stack([below, above])")
        members = list(members)
        if not members:
            raise OptionError("Stack got no cells; expected at least one")
        for i, member in enumerate(members):
            if not isinstance(member, Cell | Stack | Bidirectional):
                came = member.__name__ if isinstance(member, type) else type(member).__name__
                raise CellError(f"Stack: member {i} is {came}; expected an instance of Cell, Stack or Bidirectional")
        self.members = nn.ModuleList(members)
        self.dropout, self.residual = checked_rate("dropout", dropout), residual
        for i, (below, above) in enumerate(pairwise(members)):
            if below.output_size != above.input_size:
                raise ShapeError(
                    f"Stack: member {i + 1} ({type(above).__name__}) has input size {above.input_size}; "
                    f"expected {below.output_size}, the output size of member {i} ({type(below).__name__})"
                )

    @property
    def input_size(self) -> int:
        return self.members[0].input_size  # type: ignore[return-value]

    @property
    def output_size(self) -> int:
        return self.members[-1].output_size  # type: ignore[return-value]

    @property
    def output_type(self) -> Any:
        """The NamedTuple of the outputs; None where there is only one."""
        return self.members[-1].output_type

    def like(self, input_size: int) -> Stack:
        """Return a new stack of the same kinds and sizes, for another input size."""
        sizes = [input_size, *(member.input_size for member in self.members[1:])]
        members = [member.like(n) for member, n in zip(self.members, sizes, strict=True)]  # type: ignore[operator]
        return Stack(members, dropout=self.dropout, residual=self.residual)

    def zeros(self, batch: int, like: Tensor) -> Any:
        """Return the state of zeros for `batch` sequences, on the device and in the dtype of `like`."""
        return tuple(member.zeros(batch, like) for member in self.members)  # type: ignore[operator]

    def forward(self, x: Any, state: Any = None) -> tuple[Any, Any]:
        """Return (output, state) after one time step. x: [B, I]; state: the tuple of the members' states."""
        states = self.zeros(x.shape[0], like=x) if state is None else state
        if not isinstance(states, tuple | list) or len(states) != len(self.members):
            came = f"{len(states)} part(s)" if isinstance(states, tuple | list) else type(states).__name__
            raise ShapeError(f"Stack: state is {came}; expected a tuple of {len(self.members)}, one a member")
        after = []
        for i, (member, before) in enumerate(zip(self.members, states, strict=True)):
            y, new = member(x, before)
            after.append(new)
            x = self.join(i, x, y)
        return x, tuple(after)

    def join(self, i: int, x: Tensor, y: Any, generator: torch.Generator | None = None) -> Any:
        """Return what member i hands up, given its input x and its output y: of several the first, the last one all."""
        first: Tensor = y[0] if isinstance(y, tuple) else y
        if self.residual and x.shape == first.shape:
            first = first + x
        if i == len(self.members) - 1:
            return type(y)(first, *y[1:]) if isinstance(y, tuple) else first
        return row_dropout(first, self.dropout, generator) if self.training and self.dropout else first

    def extra_repr(self) -> str:
        return f"dropout={self.dropout}, residual={self.residual}"
