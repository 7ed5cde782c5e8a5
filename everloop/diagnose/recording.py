"""A model run once with its states kept: each cell step by step in PyTorch, each layer cut off from what reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from everloop.binding import bind
from everloop.cell import Cell
from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call, Results
from everloop.errors import UnsupportedError
from everloop.layers import Bidirectional, Embedded, Recurrent, Stack
from everloop.layers.dispatch import replaced
from everloop.layers.nested import leaves, map_state
from everloop.step import advance


@dataclass(frozen=True)
class Track:
    """What one cell did over a sequence, in one direction.

    layer: which one, as "recurrent, layer 2, back"; x: [T, B, I]; before, after: the states of each step by name, T
    rows [B, n]; valid: bool [T, B], the steps that exist; reverse: whether it reads from the end; target: how its layer
    asks to be run.
    """

    layer: str
    cell: Cell
    values: Bindings
    x: Tensor
    before: dict[str, list[Tensor]]
    after: dict[str, list[Tensor]]
    valid: Tensor
    reverse: bool
    target: str | None

    def stacked(self, which: dict[str, list[Tensor]]) -> dict[str, Tensor]:
        """Return states as [T, B, n], without their graph."""
        return {name: torch.stack(rows).detach() for name, rows in which.items()}


@dataclass
class Lane:
    """One call of recurrent layers: its tracks, what it put out, and the same cut off from its graph.

    inputs: x as it came [T, B, I], with its graph; outputs: [T, B, n]; finals: the final states; cut: outputs and
    finals as leaves, whose gradients come from outside.
    """

    name: str
    inputs: Tensor | None = None
    tracks: list[Track] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    finals: list[Tensor] = field(default_factory=list)
    cut: list[Tensor] = field(default_factory=list)


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[Lane]]:
    """Run all layers of a model step by step inside the block; the lanes come in the order of their calls."""
    lanes: list[Lane] = []
    places: dict[Cell, tuple[str, str | None]] = {}
    hooks = []

    def begin(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            lanes.append(Lane(name))
            x = args[0].rows() if args and isinstance(args[0], Embedded) else args[0] if args else None
            if not isinstance(x, Tensor):
                return None
            x = x if x.requires_grad else x.detach().requires_grad_()
            lanes[-1].inputs = x
            return x, *args[1:]

        return note

    def end(module: nn.Module, args: Any, result: tuple[Any, Any]) -> tuple[Any, Any]:
        lane = lanes[-1]
        lane.outputs, lane.finals = leaves(result[0]), leaves(result[1])
        lane.cut = [tensor.detach().requires_grad_() for tensor in (*lane.outputs, *lane.finals)]
        fresh = iter(lane.cut)
        y = next(fresh) if isinstance(result[0], Tensor) else type(result[0])(*(next(fresh) for _ in result[0]))
        return y, map_state(lambda _: next(fresh), result[1])

    def run(cell: Cell, call: Call) -> Results:
        layer, target = places.get(cell, (type(cell).__name__, None))
        y, finals, track = _steps(cell, call, layer, target)
        if lanes:
            lanes[-1].tracks.append(track)
        return y, finals

    try:
        for name, module in model.named_modules():
            if isinstance(module, Recurrent):
                name = name or "layers"
                places |= {cell: (place, module.target) for cell, place in _places(module.cell, name)}
                hooks += [module.register_forward_pre_hook(begin(name)), module.register_forward_hook(end)]
        if not hooks:
            raise UnsupportedError(f"{type(model).__name__} has no Recurrent layers to look into")
        with replaced(run), torch.enable_grad():
            yield lanes
    finally:
        for hook in hooks:
            hook.remove()


def _places(core: nn.Module, name: str) -> Iterator[tuple[Cell, str]]:
    """Yield the cells of some layers with what each is called."""
    if isinstance(core, Stack):
        for number, member in enumerate(core.members, 1):
            yield from _places(member, f"{name}, layer {number}")
    elif isinstance(core, Bidirectional):
        yield from _places(core.ahead, f"{name}, ahead")
        yield from _places(core.back, f"{name}, back")
    elif isinstance(core, Cell):
        yield core, name


def _steps(cell: Cell, call: Call, layer: str, target: str | None) -> tuple[Tensor, tuple[Tensor, ...], Track]:
    """Return (output, final states, track) of a cell, one batch of rows a step."""
    time, names = call.time, list(cell.state_sizes)
    lengths = time.lengths
    numbers = torch.arange(time.steps, device=call.x.device)[:, None]
    valid = torch.ones(time.steps, time.batch, dtype=torch.bool) if lengths is None else numbers < lengths
    states = list(call.state)
    before: dict[str, list[Any]] = {name: [None] * time.steps for name in names}
    after: dict[str, list[Any]] = {name: [None] * time.steps for name in names}
    outputs: list[Any] = [None] * time.steps
    for t in reversed(range(time.steps)) if time.reverse else range(time.steps):
        if time.reset is not None:
            starts = (torch.zeros_like(s) if r is None else r for r, s in zip(call.restart, states, strict=True))
            states = [torch.where(time.reset[t][:, None], r, s) for r, s in zip(starts, states, strict=True)]
        own = call.values.rows | {name: rows[t] for name, rows in call.values.steps.items()}
        row, found = advance(bind(cell, call.values.fixed | own), call.x[t], states)
        # not even a view stands between a new state and what the step made of it: gradients are asked for both
        found = tuple(
            new if new.shape == old.shape else new.expand_as(old) for new, old in zip(found, states, strict=True)
        )
        for name, old, new in zip(names, states, found, strict=True):
            before[name][t], after[name][t] = old, new
        states = [torch.where(valid[t][:, None], new, old) for new, old in zip(found, states, strict=True)]
        outputs[t] = torch.where(valid[t][:, None], row, 0)
    y = torch.stack(outputs) if outputs else call.x.new_zeros(0, time.batch, cell.output_width)
    x = call.x.detach()
    return y, tuple(states), Track(layer, cell, call.values, x, before, after, valid, time.reverse, target)
