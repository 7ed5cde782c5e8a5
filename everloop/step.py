"""One step of a cell: what it is given and what it returns, checked against its declaration."""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from everloop import torch_private
from everloop.binding import bind, keep
from everloop.errors import CellError, OptionError, unknown


def advance(cell: Any, x: Tensor, states: Sequence[Any]) -> tuple[Any, tuple[Any, ...]]:
    """Return (output, states) after one step of rows; several declared outputs stand side by side.

    The step gets states of its own: what it changes in place (`h += …`) is neither the caller's nor an earlier output.
    """
    results, sizes = step_results(cell, x, [s.clone() for s in states]), cell.output_sizes
    if not sizes:
        return results[0], results
    states, outputs = results[: -len(sizes)], results[-len(sizes) :]
    rows = [o.expand(x.shape[0], n) for n, o in zip(sizes.values(), outputs, strict=True)]
    return rows[0] if len(rows) == 1 else torch.cat(rows, -1), states


def step_results(cell: Any, x: Any, states: Sequence[Any]) -> tuple[Any, ...]:
    """Return what the step of `cell` returns as a tuple, checked against the declaration: states, then outputs.

    States are rows [B, n] here, whatever axes the step sees. Noise that is not drawn now is zeros, masks are ones.
    """
    if cell.is_shaped:
        shapes = cell.state_shapes.values()
        states = [s.reshape(s.shape[0], *shape) for s, shape in zip(states, shapes, strict=True)]
    further = [getattr(cell, name) for name in cell.input_sizes]
    absent = {name: spec for name, spec in type(cell).noises.items() if name not in cell.__dict__}
    if absent:
        told = {name: x.new_full((x.shape[0], n.size(cell.sizes)), n.absent) for name, n in absent.items()}
        twin = bind(cell, told)
        result = twin.step(x, *further, *states)
        keep(cell, twin, told)
    else:
        result = cell.step(x, *further, *states)
    names = [*cell.state_sizes, *cell.output_sizes]
    if result is None:
        raise CellError(f"{type(cell).__name__}.step returned None; expected {_described(cell)}")
    results = tuple(result) if isinstance(result, tuple | list) else (result,)
    if len(results) != len(names):
        raise CellError(
            f"{type(cell).__name__}.step returned {len(results)} value(s); expected {len(names)}: {_described(cell)}"
        )
    return _rows(cell, results) if cell.is_shaped else results


def _rows(cell: Any, results: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return results with the axes of each state laid out in one."""
    found = list(results)
    for k, (name, shape) in enumerate(cell.state_shapes.items()):
        new = results[k]
        if len(shape) == 1:
            continue
        if not hasattr(new, "shape") or tuple(new.shape[1:]) != shape:
            came = list(new.shape) if hasattr(new, "shape") else type(new).__name__
            raise CellError(f"{type(cell).__name__}.step returned {came} for state {name}; expected {['B', *shape]}")
        found[k] = new.reshape(new.shape[0], math.prod(shape))
    return tuple(found)


def check_names(owner: str, given: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise OptionError unless what is given by name is what was declared."""
    for name in given:
        if name not in expected:
            raise OptionError(f"{owner}: {unknown('input', name, list(expected))}")
    missing = [name for name in expected if name not in given]
    if missing:
        shown = ", ".join(f"{name}=…" for name in missing)
        raise OptionError(f"{owner}: {' and '.join(missing)} is missing, which the cell declares; give {shown}")


def _described(cell: Any) -> str:
    """Return what the step of `cell` returns, in words."""
    states, outputs = ", ".join(cell.state_sizes), ", ".join(cell.output_sizes)
    return f"{states}{outputs and ', then the outputs '}{outputs}, in this order"


def named_outputs(cell: type, names: Sequence[str]) -> Any:
    """Return the NamedTuple of the outputs of a kind of cell; programs of `torch.export` are saved with its name."""
    made: Any = namedtuple("Outputs", names)  # type: ignore[misc]
    made.__module__, made.__qualname__ = cell.__module__, f"{cell.__qualname__}.Outputs"
    if "<locals>" not in made.__qualname__:  # another process can find it
        torch_private.register_namedtuple(made, serialized_type_name=f"{made.__module__}.{made.__qualname__}")
    return made
