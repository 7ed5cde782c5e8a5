"""What a step computes on its way, as sequences: states and local names of the step, recorded beside the output."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from everloop.cell import Cell, bind, step_results
from everloop.errors import OptionError
from everloop.layers.dropout import Wrapper, values_of
from everloop.layers.extras import Extras

BATCHES = (5, 7)  # a step is tried on both: the axis whose size differs is that of sequences


@dataclass(frozen=True)
class Form:
    """Of a recorded value, whether it has a row for each sequence, and its shape without that axis."""

    has_batch: bool
    shape: tuple[int, ...]


class Recording(Wrapper):
    """A cell whose output is that of another, with what is recorded of its step beside it.

    names: states, and local names of the step, which have the value they had when it returned; forms: what they are.
    """

    def __init__(self, cell: Cell, forms: dict[str, Form]) -> None:
        super().__init__(cell)
        self.names = tuple(forms)
        self.has_batch = tuple(form.has_batch for form in forms.values())
        self.widths = tuple(torch.Size(form.shape).numel() for form in forms.values())
        self.shapes = tuple(form.shape for form in forms.values())
        self.found: dict[str, Tensor] = {}

    @property
    def output_sizes(self) -> dict[str, int]:
        own = self.cell.output_sizes or {"output": self.cell.output_size}
        return own | {f"recorded {name}": n for name, n in zip(self.names, self.widths, strict=True)}

    @property
    def output_size(self) -> int:
        return self.cell.output_size

    def step(self, x: Tensor, *states: Tensor) -> Any:
        results, found = watched(self.cell, x, states)
        count = len(self.cell.state_sizes)
        outputs = results[count:] or results[:1]
        rows = []
        for name, has_batch, width in zip(self.names, self.has_batch, self.widths, strict=True):
            value = found[name].to(x.dtype)
            rows.append(
                value.reshape(x.shape[0], width) if has_batch else value.reshape(width).expand(x.shape[0], width)
            )
        return *results[:count], *outputs, *rows

    def by_name(self, output: Tensor) -> Any:
        """Return the output of the cell inside; what is recorded is in `found` from then on."""
        own, *rows = torch.split(output, [self.cell.output_width, *self.widths], -1)
        for name, shape, sequence in zip(self.names, self.shapes, rows, strict=True):
            self.found[name] = sequence.reshape(*sequence.shape[:-1], *shape)
        return self.cell.by_name(own)


def recorded(core: nn.Module, names: Sequence[str], extras: Extras) -> tuple[nn.Module, dict[str, Recording]]:
    """Return `core` with recordings in the place of its cells, and these by the prefix of their names.

    extras: what the call gives, whose shapes are those of what is recorded.

    Raises:
        OptionError: a name is unknown; the message lists the known ones.
    """
    cells = dict(_cells(core))
    forms = {prefix + name: form for prefix, cell in cells.items() for name, form in known(cell, extras).items()}
    for name in names:
        if name not in forms:
            raise OptionError(f"Recurrent.record: unknown name {name!r}; known: {', '.join(forms)}")
    recordings = {
        prefix: Recording(cell, {n.removeprefix(prefix): forms[n] for n in names if _owner(n, cells) == prefix})
        for prefix, cell in cells.items()
    }
    return _replaced(core, "", recordings), recordings


def _owner(name: str, cells: dict[str, Cell]) -> str:
    return max((prefix for prefix in cells if name.startswith(prefix)), key=len)


def _cells(core: nn.Module, prefix: str = "") -> Iterator[tuple[str, Cell]]:
    """Yield the outermost cells of a core by what stands before their names."""
    if isinstance(core, Cell):
        yield prefix, core
        return
    for name, part in core.named_children():
        yield from _cells(part, f"{prefix}{name}.")


def _replaced(core: nn.Module, prefix: str, recordings: dict[str, Recording]) -> nn.Module:
    if isinstance(core, Cell):
        return recordings[prefix]
    twin = copy.copy(core)
    children = core.named_children()
    twin.__dict__["_modules"] = {name: _replaced(part, f"{prefix}{name}.", recordings) for name, part in children}
    return twin


def known(cell: Cell, extras: Extras) -> dict[str, Form]:
    """Return all that may be recorded of a cell: its states, and the local names of its step that are tensors."""
    twin = copy.deepcopy(cell)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        tried = [_tried(twin, batch, extras) for batch in BATCHES]
    found = {}
    for name, value in tried[0].items():
        other = tried[1].get(name)
        if other is not None and other.shape[1:] == value.shape[1:]:
            has_batch = value.dim() > 0 and value.shape != other.shape
            found[name] = Form(has_batch, tuple(value.shape[1:] if has_batch else value.shape))
    return found | {name: Form(True, tuple(axes)) for name, axes in cell.state_shapes.items()}


def _tried(cell: Cell, batch: int, extras: Extras) -> dict[str, Tensor]:
    x = next(cell.parameters(), torch.empty(0)).new_zeros(1, batch, cell.input_size)
    inputs = {name: t.new_zeros(1, batch, *t.shape[2:]) for name, t in extras.inputs.items()}
    contexts = {name: t.new_zeros(batch, *t.shape[1:]) for name, t in extras.contexts.items()}
    values = values_of(cell, 1, batch, Extras(inputs, contexts))
    at_step = {name: t[0] for name, t in values.steps.items()}
    states = [x.new_zeros(batch, n) for n in cell.state_sizes.values()]
    _, found = watched(bind(cell, values.fixed | values.rows | at_step), x[0], states)
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def watched(cell: Cell, x: Any, states: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what one step returns, and the values of its local names and of the new states by name."""
    inner: Cell = cell
    while isinstance(inner, Wrapper):
        inner = inner.cell
    code, found = getattr(type(inner).step, "__code__", None), dict[str, Any]()

    def call(frame: FrameType, event: str, arg: Any) -> Any:
        return line if frame.f_code is code else None

    def line(frame: FrameType, event: str, arg: Any) -> Any:
        if event == "return":
            found.update(frame.f_locals)
        return line

    before = sys.gettrace()
    sys.settrace(call)
    try:
        results = step_results(cell, x, states)
    finally:
        sys.settrace(before)
    found.pop("self", None)
    return results, found | dict(zip(cell.state_sizes, results, strict=False))
