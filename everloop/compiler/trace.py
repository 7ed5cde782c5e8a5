"""First pass: call the step of a cell once on symbols and keep what it did as a Graph."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

import torch

from everloop.cell import Cell, as_states, bind
from everloop.compiler import features, functions
from everloop.compiler.ir import Builder, Graph, Group, Type, Value
from everloop.compiler.symbol import Symbol, unsupported
from everloop.errors import CellError, UnsupportedError

assert features, "its import fills the handlers of Symbol"


class _Names:
    """While a step runs, notes the local names its values get."""

    def __init__(self, step: Any) -> None:
        self.code = getattr(step, "__code__", None)
        self.found: dict[Value, str] = {}

    def __enter__(self) -> _Names:
        self.before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: Any) -> None:
        sys.settrace(self.before)

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._line if frame.f_code is self.code else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        for name, thing in frame.f_locals.items():
            if isinstance(thing, Symbol) and thing.value.op != "input":
                self.found.setdefault(thing.value, name)
        return self._line


def trace(
    cell: Cell,
    fixed: Mapping[str, torch.Tensor],
    rows: Mapping[str, torch.Tensor] | None = None,
    steps: Mapping[str, torch.Tensor] | None = None,
    dtype: torch.dtype | None = None,
    *,
    names: bool = False,
) -> Graph:
    """Return the graph of one step of `cell`; its outputs are the new states by name.

    fixed, rows, steps: as in `Values`; only shapes and dtypes are read. `names` notes the local names of the
    step for printing.

    Raises:
        UnsupportedError: the step does something outside the table; the message names it and its line.
    """
    builder, dtype = Builder(), dtype or torch.get_default_dtype()
    groups: list[tuple[Group, Mapping[str, torch.Tensor]]] = [
        ("fixed", fixed), ("rows", rows or {}), ("steps", steps or {})
    ]  # fmt: skip
    symbols: dict[str, Symbol] = {}
    for group, tensors in groups:
        for name, tensor in tensors.items():
            kind = Type(tuple(tensor.shape)) if group == "fixed" else Type(tuple(tensor.shape[-1:]), rows=True)
            value = builder.input(group, name, kind)
            symbols[name] = Symbol(value, builder, dtype, mask=tensor.dtype == torch.bool)
    x = Symbol(builder.input("x", "x", Type((cell.input_size,), rows=True)), builder, dtype)
    states = [Symbol(builder.input("state", s, Type((n,), rows=True)), builder, dtype)
              for s, n in cell.state_sizes.items()]  # fmt: skip
    step: Any = bind(cell, symbols).step
    before = torch.get_rng_state()
    try:
        if names:
            with _Names(type_of_step(cell)) as seen:
                result = as_states(cell, step(x, *states))
        else:
            seen, result = None, as_states(cell, step(x, *states))
    except (UnsupportedError, CellError):
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError, ArithmeticError) as error:
        raise UnsupportedError(f"the compiler cannot follow {cell.__class__.__name__}.step: {error}") from error
    if not torch.equal(before, torch.get_rng_state()):
        raise UnsupportedError(
            f"{cell.__class__.__name__}.step draws random numbers, which differ from step to step; "
            "give the mask as a value of the layer (see Zoneout)"
        )
    graph = Graph({}, seen.found if seen else {})
    for (name, size), thing in zip(cell.state_sizes.items(), result, strict=True):
        graph.outputs[name] = _new_state(cell, name, size, thing, builder, x)
    graph.verify()
    return graph


def type_of_step(cell: Cell) -> Any:
    """Return the function that is the step of `cell`."""
    return cell.__class__.step


def _new_state(cell: Cell, name: str, size: int, thing: Any, builder: Builder, x: Symbol) -> Value:
    if not isinstance(thing, Symbol | torch.Tensor | float | int):
        raise unsupported(f"a {thing.__class__.__name__} as the new state {name}")
    value = functions.value_of(thing, x)
    if isinstance(thing, Symbol) and (thing.is_flat or thing.is_mask):
        raise unsupported(f"the new state {name} of shape {thing.shape} and dtype {thing.dtype}")
    if value.type != Type((size,), rows=True):
        if value.type.rows or value.width not in (1, size) or len(value.type.shape) > 1:
            raise CellError(
                f"{cell.__class__.__name__}.step returned {value.type} for state {name}; expected row[{size}]"
            )
        value = builder.make("add", value, builder.constant(0.0, Type((size,), rows=True)))
    return value
