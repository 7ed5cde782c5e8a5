"""What a call gives its cells besides x, states and time: further inputs, contexts, where random numbers come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import PackedSequence

from everloop.cell import Cell, check_names
from everloop.compiler.dependencies import searched
from everloop.compiler.embedded import Embedded
from everloop.errors import CellError, ShapeError
from everloop.layers.input_form import InputForm, unpack
from everloop.layers.validation import checked_lengths


@dataclass(frozen=True)
class Extras:
    """Further inputs [T, B, n] and contexts [B, …] by name, and the generator that draws (None: PyTorch's own).

    read: x as the layer read it, and the rows of a table that it is.
    """

    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    contexts: Mapping[str, Tensor] = field(default_factory=dict)
    generator: torch.Generator | None = None
    read: tuple[Tensor, Embedded] | None = None


NOTHING = Extras()
SLOTS = 8  # rows of a memory that are compiled for at least; of other numbers, the next of about five in each octave


@dataclass(frozen=True)
class Expected:
    """What is declared under a name: an input, anew at every step, or a context, one for each sequence; its shape.

    shape: without the axes of x; None is a length that comes with each call.
    """

    kind: Literal["input", "context"]
    shape: tuple[int | None, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that are known before a call."""
        return tuple(n for n in self.shape if n is not None)

    @property
    def is_memory(self) -> bool:
        """Whether it is a context of as many rows as a call brings."""
        return None in self.shape

    def whole(self, x: Tensor, *, batch_first: bool) -> list[int | None]:
        """Return its shape beside x [T, B, I], [B, T, I] or [T, I]."""
        if self.kind == "input":
            return [*x.shape[:-1], *self.shape]
        batch = () if x.dim() == 2 else x.shape[:1] if batch_first else x.shape[1:2]
        return [*batch, *self.shape]


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
                kinds = " and ".join(f"{e.kind} of {_shown(e.shape)}" for e in (found[name], expected))
                raise CellError(f"{type(core).__name__}: {name} is declared as {kinds}; give one another name")
    return found


def _of(cell: Cell) -> dict[str, Expected]:
    found = {name: Expected("input", (n,)) for name, n in cell.input_sizes.items()}
    return found | {name: Expected("context", shape) for name, shape in cell.context_shapes.items()}


def _shown(shape: Sequence[int | None]) -> str:
    return ", ".join("S" if n is None else str(n) for n in shape)


def paths(core: nn.Module) -> dict[str, str]:
    """Return the name of each further input, context and mask by the dotted path under which its cell reads it."""
    found = {}
    for path, part in core.named_modules():
        for name, expected in _of(part).items() if isinstance(part, Cell) else ():
            for each in (name, f"{name}_mask") if expected.is_memory else (name,):
                found[f"{path}.{each}" if path else each] = each
    return found


def example(core: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return random numbers for all that the cells inside `core` declare, beside x [T, B, I].

    Inputs, such as times and masks, are between 0 and 1, contexts normal.
    """
    found = {}
    for name, expected in declared(core).items():
        shape = [SLOTS if n is None else n for n in expected.whole(x, batch_first=False)]
        found[name] = (torch.rand(shape) if expected.kind == "input" else torch.randn(shape)).to(x)
    return found


def example_extras(core: nn.Module, x: Tensor) -> Extras:
    """Return the same as a call gives it."""
    return checked_extras(core, example(core, x), x, InputForm(), None)


def checked_extras(
    core: nn.Module,
    given: Mapping[str, Any],
    x: Any,
    form: InputForm,
    generator: torch.Generator | None,
    is_exact: bool = False,
) -> Extras:
    """Return what was given by name beside x, which has the form `form`; PackedSequences beside a packed x.

    is_exact: whether memories keep the number of their rows.

    Raises:
        OptionError: something is missing or was not declared.
        ShapeError: something does not fit x.
    """
    wanted = declared(core)
    if not (wanted or given):
        return NOTHING if generator is None else Extras(generator=generator)
    memories = [name for name, expected in wanted.items() if expected.is_memory]
    lengths = {name: given.get(f"{name}_lengths") for name in memories}
    check_names("Recurrent", {k: v for k, v in given.items() if k not in [f"{m}_lengths" for m in memories]}, wanted)
    inputs, contexts = {}, {}
    for name, expected in wanted.items():
        tensor = _unpacked(name, given[name], form) if expected.kind == "input" else given[name]
        shape = expected.whole(x, batch_first=form.batch_first)
        fits = isinstance(tensor, Tensor) and len(tensor.shape) == len(shape)
        if not (fits and all(n in (None, m) for n, m in zip(shape, tensor.shape, strict=True))):
            came = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ShapeError(
                f"Recurrent: {name} is {came}; expected [{_shown(shape)}], as the {expected.kind} beside x"
            )
        if tensor.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ShapeError(f"Recurrent: {name} is {tensor.dtype}; expected {x.dtype}, as x")
        if expected.kind == "input":
            inputs[name] = form.inward(tensor)
        else:
            contexts[name] = form.state_inward(tensor)
        if expected.is_memory:
            contexts |= _masked(core, name, contexts[name], lengths[name], form, is_exact)
    return Extras(inputs, contexts, generator)


def _masked(
    core: nn.Module, name: str, memory: Tensor, lengths: Any, form: InputForm, is_exact: bool
) -> dict[str, Tensor]:
    """Return a memory [B, S, n] and which of its rows exist.

    Where the mask is read there may be more rows, which do not exist: so only a few numbers of rows are compiled for.
    """
    slots = memory.shape[1]
    order = None if form.packed is None else form.packed.sorted_indices
    if lengths is None:
        ends = torch.full(memory.shape[:1], slots, device=memory.device)
    else:
        of_batch = checked_lengths(f"Recurrent: {name}", lengths, memory.transpose(0, 1))
        assert of_batch is not None
        ends = of_batch if order is None else of_batch[order]
    kinds = [type(m) for m in core.modules() if isinstance(m, Cell) and name in type(m).contexts]
    is_read = all(f"{name}_mask" in searched(kind).names for kind in kinds)
    if is_read and not (is_exact or torch.compiler.is_compiling()):
        memory = pad(memory, (0, 0, 0, -slots % max(SLOTS, 2 ** (slots.bit_length() - 3))))
    mask = torch.arange(memory.shape[1], device=memory.device) < ends[:, None]
    return {name: memory, f"{name}_mask": mask}


def _unpacked(name: str, tensor: Any, form: InputForm) -> Any:
    if form.packed is None:
        return tensor
    if not isinstance(tensor, PackedSequence):
        raise ShapeError(f"Recurrent: {name} is {type(tensor).__name__}; expected a PackedSequence, as x")
    if not torch.equal(tensor.batch_sizes, form.packed.batch_sizes):
        raise ShapeError(f"Recurrent: {name} is packed with other lengths than x; expected the same")
    return unpack(tensor)[0]
