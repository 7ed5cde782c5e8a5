"""What a target receives: the body of the time loop as stages over named buffers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from everloop.compiler.operations import OPERATIONS
from everloop.compiler.view import View

BufferKind = Literal[
    "sequence",  # [T, B, n], read: one row a step and sequence
    "previous",  # [T, B, n], read one step back: the `first` rows at the start, the `restart` rows at a reset
    "row",  # [B, n], read: one row a sequence, the same at every step
    "vector",  # [n], read: the same for every row
    "matrix",  # [height, width], read
    "state",  # [B, n], carried from step to step: starts from the caller's rows, ends in the caller's rows
    "scratch",  # [B, n], lives within one step
    "emit",  # [T, B, n], written: one row a step and sequence, zeros where a sequence has ended
    "total",  # [B, n] or [n] (height 0), written: a sum over time, or over time and batch
]


@dataclass(frozen=True)
class Buffer:
    """A named piece of memory. Features are adjacent; time and batch have any stride."""

    name: str
    kind: BufferKind
    width: int
    height: int = 1
    of: str = ""  # for "previous": the state whose first and restart rows it continues, rounded to its own dtype
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Product:
    """out[b] = source[b] @ matrix.T, or source[b] @ matrix when `transposed`, summed in the dtype of `out`.

    With a matrix of int8, the source holds whole numbers from -127 to 127, in the dtype of `out`; of what is no number
    every result is none.
    """

    out: Buffer
    source: Buffer
    matrix: Buffer
    transposed: bool = False


@dataclass(frozen=True)
class Instruction:
    """One line of a Map: `op` of earlier lines `args`, or an access to `buffer` at feature `offset + j`.

    load        value = buffer[row, offset + j]; a buffer of width 1 is read for every j; with a view, feature j of that
    constant    value = number
    store       buffer[row, offset + j] = args[0]; a buffer of width 1, "scratch" or "emit", takes what is the same for
                every j, and no line of the Map loads it
    accumulate  buffer[offset + j] += args[0], a "total" of either form
    cast        args[0] rounded or widened to `dtype`
    sum, max    buffer[row, 0] = the sum or maximum of args[0] over all j; with a view, each feature of the buffer is
                that of all j whose feature in the view it is, 0 or -inf where there is none
    any other   an element-wise operation of the table
    """

    op: str
    args: tuple[int, ...] = ()
    buffer: Buffer | None = None
    offset: int = 0
    number: float = 0.0
    dtype: torch.dtype | None = None
    view: View | None = None

    @property
    def is_write(self) -> bool:
        """Whether it changes its buffer; these come after all loads and arithmetic of a Map."""
        return self.op in ("store", "accumulate") or self.is_reduction

    @property
    def is_reduction(self) -> bool:
        """Whether it is one number of all features of a row."""
        return self.op in OPERATIONS and OPERATIONS[self.op].kind == "reduce"


@dataclass(frozen=True)
class Map:
    """For every row and every feature j < width: the instructions in order.

    All arguments of an instruction have one dtype (constants have any), which is that of a buffer it writes to.
    """

    width: int
    body: tuple[Instruction, ...]


@dataclass(frozen=True)
class Loop:
    """A time loop. A gradient loop runs the steps of its forward loop in the opposite order.

    At a reset a forward loop sets the states to the caller's restart rows before the step; a gradient loop adds the
    carried gradients to the caller's restart totals after the step and sets them to zero.
    """

    stages: tuple[Product | Map, ...]
    states: tuple[Buffer, ...]
    is_gradient: bool = False

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """Every buffer the stages name, states first, each once, in order of use."""
        found: dict[Buffer, None] = dict.fromkeys(self.states)
        for stage in self.stages:
            if isinstance(stage, Product):
                found.update(dict.fromkeys((stage.source, stage.matrix, stage.out)))
            else:
                found.update((i.buffer, None) for i in stage.body if i.buffer)
        return tuple(found)

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of all buffers but matrices of int8; None where they have several."""
        found = {b.dtype for b in self.buffers if b.dtype != torch.int8}
        return found.pop() if len(found) == 1 else None

    def of(self, dtype: torch.dtype) -> Loop:
        """Return the same loop with all buffers of one dtype."""

        def buffer(b: Buffer) -> Buffer:
            return replace(b, dtype=dtype)

        def stage(s: Product | Map) -> Product | Map:
            if isinstance(s, Product):
                return replace(s, out=buffer(s.out), source=buffer(s.source), matrix=buffer(s.matrix))
            return replace(s, body=tuple(replace(i, buffer=i.buffer and buffer(i.buffer)) for i in s.body))

        return replace(self, stages=tuple(map(stage, self.stages)), states=tuple(map(buffer, self.states)))
