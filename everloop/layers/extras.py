"""What a call gives its cells besides x, states and time: further inputs, contexts, where random numbers come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from everloop.cell import Cell, check_names
from everloop.errors import CellError, ShapeError
from everloop.layers.input_form import InputForm, unpack


@dataclass(frozen=True)
class Extras:
    """Further inputs [T, B, n] and contexts [B, n] by name, and the generator that draws (None: PyTorch's own)."""

    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    contexts: Mapping[str, Tensor] = field(default_factory=dict)
    generator: torch.Generator | None = None


NOTHING = Extras()


@dataclass(frozen=True)
class Expected:
    """What is declared under a name: an input, anew at every step, or a context, one for each sequence; its size."""

    kind: Literal["input", "context"]
    size: int

    def shape(self, x: Tensor, *, batch_first: bool) -> list[int]:
        """Return its shape beside x [T, B, I], [B, T, I] or [T, I]."""
        if self.kind == "input":
            return [*x.shape[:-1], self.size]
        batch = () if x.dim() == 2 else x.shape[:1] if batch_first else x.shape[1:2]
        return [*batch, self.size]


def declared(core: nn.Module) -> dict[str, Expected]:
    """Return what the cells inside `core` declare besides x and states, by name.

    Raises:
        CellError: two of them declare different things under one name.
    """
    if isinstance(core, Cell) and not core._modules:  # as most are: no list of modules is made
        return _of(core)
    found: dict[str, Expected] = {}
    for part in core.modules():
        for name, expected in _of(part).items() if isinstance(part, Cell) else ():
            if found.setdefault(name, expected) != expected:
                kinds = " and ".join(f"{e.kind} of {e.size}" for e in (found[name], expected))
                raise CellError(f"{type(core).__name__}: {name} is declared as {kinds}; give one another name")
    return found


def _of(cell: Cell) -> dict[str, Expected]:
    found = {name: Expected("input", n) for name, n in cell.input_sizes.items()}
    return found | {name: Expected("context", n) for name, n in cell.context_sizes.items()}


def paths(core: nn.Module) -> dict[str, str]:
    """Return the name of each further input and context by the dotted path under which its cell reads it."""
    parts = ((path, part) for path, part in core.named_modules() if isinstance(part, Cell))
    return {f"{path}.{name}" if path else name: name for path, part in parts for name in _of(part)}


def example(core: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return random numbers for all that the cells inside `core` declare, beside x [T, B, I]."""
    wanted = declared(core).items()
    return {name: torch.randn(expected.shape(x, batch_first=False)).to(x) for name, expected in wanted}


def example_extras(core: nn.Module, x: Tensor) -> Extras:
    """Return the same as a call gives it."""
    return checked_extras(core, example(core, x), x, InputForm(), None)


def checked_extras(
    core: nn.Module, given: Mapping[str, Any], x: Any, form: InputForm, generator: torch.Generator | None
) -> Extras:
    """Return what was given by name beside x, which has the form `form`; PackedSequences beside a packed x.

    Raises:
        OptionError: something is missing or was not declared.
        ShapeError: something does not fit x.
    """
    wanted = declared(core)
    if not (wanted or given):
        return NOTHING if generator is None else Extras(generator=generator)
    check_names("Recurrent", given, wanted)
    inputs, contexts = {}, {}
    for name, expected in wanted.items():
        tensor = _unpacked(name, given[name], form) if expected.kind == "input" else given[name]
        shape = expected.shape(x, batch_first=form.batch_first)
        if not isinstance(tensor, Tensor) or list(tensor.shape) != shape:
            came = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ShapeError(f"Recurrent: {name} is {came}; expected {shape}, as the {expected.kind} beside x")
        if tensor.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ShapeError(f"Recurrent: {name} is {tensor.dtype}; expected {x.dtype}, as x")
        if expected.kind == "input":
            inputs[name] = form.inward(tensor)
        else:
            contexts[name] = form.state_inward(tensor)
    return Extras(inputs, contexts, generator)


def _unpacked(name: str, tensor: Any, form: InputForm) -> Any:
    if form.packed is None:
        return tensor
    if not isinstance(tensor, PackedSequence):
        raise ShapeError(f"Recurrent: {name} is {type(tensor).__name__}; expected a PackedSequence, as x")
    if not torch.equal(tensor.batch_sizes, form.packed.batch_sizes):
        raise ShapeError(f"Recurrent: {name} is packed with other lengths than x; expected the same")
    return unpack(tensor)[0]
