"""Two cells that read the same sequence, one from the start and one from the end."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from everloop.errors import CellError, OptionError, ShapeError


class Bidirectional(nn.Module):
    """A pair of cells (or stacks) over the same sequence, with weights of their own, in opposite directions.

    Schuster and Paliwal, "Bidirectional recurrent neural networks", 1997. It needs the whole sequence, so it runs
    inside `Recurrent` only. The state is the pair of their states.

    Args:
        forward_cell: reads from the first step to the last.
        backward_cell: reads from the last step of each sequence to its first; None makes one like `forward_cell`.
        merge: "concat" (output sizes add) or "sum" (output sizes must be equal).

    Raises:
        CellError: one of the two is no cell.
    """

    def __init__(
        self, forward_cell: Any, backward_cell: Any = None, *, merge: Literal["concat", "sum"] = "concat"
    ) -> None:
        super().__init__()
        if merge not in ("concat", "sum"):
            raise OptionError(f"Bidirectional: merge is {merge!r}; expected 'concat' or 'sum'")
        for name, cell in {"forward_cell": forward_cell, "backward_cell": backward_cell}.items():
            is_absent = cell is None and name == "backward_cell"
            if not (is_absent or (isinstance(cell, nn.Module) and hasattr(cell, "like"))):
                came = cell.__name__ if isinstance(cell, type) else type(cell).__name__
                raise CellError(f"Bidirectional: {name} is {came}; expected an instance of Cell or Stack")
        self.ahead = forward_cell
        self.back = forward_cell.like(forward_cell.input_size) if backward_cell is None else backward_cell
        self.merge = merge
        if self.ahead.input_size != self.back.input_size:
            raise ShapeError(f"Bidirectional: input sizes {self.ahead.input_size} and {self.back.input_size} differ")
        fields = [() if kind is None else kind._fields for kind in (self.ahead.output_type, self.back.output_type)]
        if fields[0] != fields[1]:
            names = (", ".join(names) or "one" for names in fields)
            raise CellError(f"Bidirectional: the outputs of the two cells are {' and '.join(names)}; expected the same")
        if merge == "sum" and self.ahead.output_size != self.back.output_size:
            raise ShapeError(
                f"Bidirectional: output sizes {self.ahead.output_size} and {self.back.output_size} cannot be summed"
            )

    @property
    def input_size(self) -> int:
        return self.ahead.input_size  # type: ignore[no-any-return]

    @property
    def output_size(self) -> int:
        sizes: tuple[int, int] = (self.ahead.output_size, self.back.output_size)
        return sum(sizes) if self.merge == "concat" else sizes[0]

    @property
    def output_type(self) -> Any:
        """The NamedTuple of the outputs; None where there is only one."""
        return self.ahead.output_type

    def like(self, input_size: int) -> Bidirectional:
        """Return a new pair of the same kinds and sizes, for another input size."""
        return Bidirectional(self.ahead.like(input_size), self.back.like(input_size), merge=self.merge)

    def zeros(self, batch: int, like: Tensor) -> Any:
        """Return the state of zeros for `batch` sequences, on the device and in the dtype of `like`."""
        return self.ahead.zeros(batch, like), self.back.zeros(batch, like)

    def join(self, ahead: Any, back: Any) -> Any:
        """Return the output, given those of the two directions in the order of time; several one by one."""
        if isinstance(ahead, tuple):
            return type(ahead)(*map(self.join, ahead, back))
        return torch.cat([ahead, back], -1) if self.merge == "concat" else ahead + back

    def forward(self, *_: Any) -> Any:
        """Raise: one step of a bidirectional layer does not exist."""
        raise OptionError("Bidirectional needs the whole sequence and cannot be stepped; run it inside Recurrent")

    def extra_repr(self) -> str:
        return f"merge={self.merge!r}"
