"""From a drawn cell and a case to a layer and its inputs."""

from __future__ import annotations

import copy
import itertools
import linecache
import re
import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from everloop import Bidirectional, Recurrent, Stack, VariationalDropout, WeightDrop, Zoneout, cells
from everloop.cell import Cell
from tests.random_cells.cases import Case
from tests.random_cells.source import LETTERS, Drawn

HEAD = """import torch
from torch import nn, sigmoid, tanh
from torch.nn import functional as F
from everloop import Cell, H, I, bias, context, custom_gradient, inputs, mask, noise, output, param, size, state


"""
_count = itertools.count()


def class_of(source: str) -> type[Cell]:
    """Return the class that this text defines."""
    name = f"drawn_{next(_count)}.py"
    text = HEAD + source
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    module = types.ModuleType(name.removesuffix(".py"))
    exec(compile(text, name, "exec"), module.__dict__)
    found = module.Drawn
    assert issubclass(found, Cell)
    return found


@dataclass
class Call:
    """A layer with what it is given: x [T, B, I]; states, lengths and resets for the whole batch.

    told: inputs [T, B, n], contexts [B, n], memories [B, S, n] by name, and lengths of memories as NAME_lengths.
    """

    layer: Recurrent
    x: Tensor
    state: Any
    reset: Tensor | None
    told: dict[str, Tensor]


def build(drawn: Drawn, case: Case) -> Call:
    """Return the layer and the inputs of this case, in its dtype."""
    dtype = torch.float64 if case.double else torch.float32
    torch.manual_seed(case.seed)
    layer = _layer(drawn, case).to(dtype).train(case.training)
    for start in layer.start or ():
        nn.init.uniform_(start, -0.5, 0.5)
    x = torch.randn(case.steps, case.batch, layer.input_size, dtype=dtype).requires_grad_(case.x_grad)
    state = None
    if case.state:
        zeros = layer.cell.zeros(case.batch, x.detach())
        state = nested(lambda s: torch.empty_like(s).uniform_(-0.7, 0.7).requires_grad_(case.state_grad), zeros)
    reset = None
    if case.resets is not None:
        reset = torch.zeros(case.steps, case.batch, dtype=torch.bool)
        for t, b in case.resets:
            reset[t, b] = True
    return Call(layer, x, state, reset, _told(drawn, case, dtype))


def _told(drawn: Drawn, case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    slots = 1 + case.seed % 4
    for d in drawn.told():
        if d.sort == "noise":
            continue
        axes = {"input": (case.steps, case.batch), "context": (case.batch,), "memory": (case.batch, slots)}[d.sort]
        numbers = torch.randn(*axes, d.dims[0].value(case.sizes), dtype=dtype)
        found[d.name] = numbers.requires_grad_(case.told_grad)
        if d.sort == "memory" and case.ends:
            found[f"{d.name}_lengths"] = torch.randint(d.least, slots + 1, (case.batch,))
    return found


def exactly(call: Call) -> Call:
    """Return the same call in float64, sharing nothing."""
    layer = copy.deepcopy(call.layer).double()

    def twin(s: Tensor) -> Tensor:
        return s.detach().double().clone().requires_grad_(s.requires_grad)

    told = {name: twin(t) if t.is_floating_point() else t for name, t in call.told.items()}
    return Call(layer, twin(call.x), None if call.state is None else nested(twin, call.state), call.reset, told)


def nested(function: Any, state: Any) -> Any:
    """Return the nested tuple of what `function` makes of each tensor."""
    return tuple(nested(function, s) for s in state) if isinstance(state, tuple) else function(state)


def flat(state: Any) -> list[Tensor]:
    """Return the tensors of a nested tuple in order."""
    return [leaf for s in state for leaf in flat(s)] if isinstance(state, tuple) else [state]


def _layer(drawn: Drawn, case: Case) -> Recurrent:
    cls = class_of(drawn.source())
    options: dict[str, Any] = {k: v for k, v in drawn.options if any(d.name == k for d in drawn.used()[1])}
    options |= {LETTERS[x]: case.sizes[x] for x in drawn.letters}
    sizes, h = case.sizes, case.sizes["H"]

    def made(input_size: int) -> Cell:
        cell = cls(input_size, h, **options)
        return _frozen(cell, drawn.frozen)

    def whole() -> Any:
        first = made(sizes["I"])
        if case.around in ("stack", "residual"):
            return Stack([first, made(first.output_size)], residual=case.around == "residual")
        if case.around == "under GRU":
            return Stack([first, cells.GRU(first.output_size, 3)])
        if case.around == "over GRU":
            return Stack([cells.GRU(2, sizes["I"]), first])
        if case.around == "zoneout":
            return Zoneout(first, **{name: 0.3 for name, _ in drawn.states[:2]})
        if case.around == "weight drop":
            return WeightDrop(first, 0.4)
        if case.around == "variational dropout":
            return VariationalDropout(first, inputs=0.3, recurrence=0.4 if _maskable(drawn, first) else 0.0)
        return first

    core = whole()
    if case.bidirectional:
        core = Bidirectional(core, whole(), merge=case.merge)  # type: ignore[arg-type]
    layers = 2 if case.around == "layers" else 1
    return Recurrent(
        core, layers=layers, batch_first=case.batch_first, learned_state=case.learned, recompute=case.recompute
    )


def _frozen(cell: Cell, names: tuple[str, ...]) -> Cell:
    for name in names:
        if hasattr(cell, name):
            getattr(cell, name).requires_grad_(False)
    return cell


def _maskable(drawn: Drawn, cell: Cell) -> bool:
    """Return whether every recurrent matrix only multiplies rows, each block of it as many as the output has."""
    source = drawn.source()
    return not drawn.outputs and all(
        span.stop - span.start == cell.output_size
        and not re.sub(rf"@ self\.{name}\.T\b", "", source).count(f"self.{name}")
        for name, spans in cell.recurrent_matrices().items()
        for span in spans
    )
