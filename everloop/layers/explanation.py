"""Which target runs each cell of a layer, and why."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor, nn

from everloop.cell import Cell
from everloop.compiler.bindings import Bindings
from everloop.compiler.equations import FORMS
from everloop.compiler.trace import named_outputs, trace
from everloop.layers.dispatch import explain, with_tensors
from everloop.layers.dropout import Wrapper, values_of
from everloop.layers.extras import example_extras


def example_call(cell: Cell) -> tuple[Tensor, Bindings]:
    """Return x of one step and sequence, and all else that the step of `cell` reads with it."""
    x = next(cell.parameters(), torch.empty(0)).new_zeros(1, 1, cell.input_size)
    return x, with_tensors(cell, values_of(cell, 1, 1, example_extras(cell, x)))


def equations(cell: Cell, form: str = "text") -> str:
    """Return the step of a cell as equations: text, latex or markdown.

    Raises:
        UnsupportedError: the compiler cannot read the step.
    """
    _, given = example_call(cell)
    graph = trace(cell, given.fixed, given.rows, given.steps, torch.float32, names=True)
    return FORMS[form](named_outputs(graph, cell))


def explanation(module: nn.Module, name: str = "cell", target: str | None = None, start: Iterable[Tensor] = ()) -> str:
    """Return, for every cell inside `module`, its name, its target and the plan of its compiled step.

    start: the first states of these cells, one after the other, where they are learned.
    """
    left = iter(start)
    if not isinstance(module, Cell):
        inside = [(f"{name}.{key}", child) for key, child in module._modules.items() if child is not None]
        return "\n\n\n".join(found for key, child in inside if (found := explanation(child, key, target, left)))
    x, values = example_call(module)
    own = list(islice(left, len(module.state_sizes)))
    summary = module.summary(own) if isinstance(module, Wrapper) else ""
    trains = not (isinstance(module, Wrapper) and module.inference_only)
    parts = [part for part in (summary, explain(module, values, x, target, with_gradient=trains)) if part]
    return f"{name} ({type(module).__name__}): " + "\n\n".join(parts)
