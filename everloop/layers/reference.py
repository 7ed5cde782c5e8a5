"""The reference of a cell over time: sequence after sequence, row after row, in float64.

It shares no code with any target, eager included, so what both say is right. It is slow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from everloop.cell import Cell, advance, bind
from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call, Results, Runner
from everloop.errors import UnsupportedError
from everloop.layers.nested import each, map_state


def loop(cell: Cell, call: Call) -> Results:
    """Return (output [T, B, n], final states) of `cell`, one row [1, n] at a time."""
    steps, batch = call.x.shape[:2]
    time = call.time
    lengths = [steps] * batch if time.lengths is None else time.lengths.tolist()
    resets = [[False] * batch] * steps if time.reset is None else time.reset.tolist()
    sequences, finals = [], [tuple(s[:0] for s in call.state)]
    for b, length in enumerate(lengths):
        row = slice(b, b + 1)
        states = tuple(s[row] for s in call.state)
        output = {}
        for t in range(length - 1, -1, -1) if time.reverse else range(length):
            if resets[t][b]:
                starts = zip(call.restart, states, strict=True)
                states = tuple(torch.zeros_like(s) if r is None else r[None] for r, s in starts)
            own = {n: v[row] for n, v in call.values.rows.items()} | {
                n: v[t, row] for n, v in call.values.steps.items()
            }
            row_of_t, after = advance(bind(cell, call.values.fixed | own), call.x[t, row], states)
            states = tuple(new.expand_as(old) for new, old in zip(after, states, strict=True))
            output[t] = row_of_t.expand(1, cell.output_width)
        nothing = call.state[0].new_zeros(1, cell.output_width)
        sequences.append(torch.cat([nothing[:0], *(output.get(t, nothing) for t in range(steps))]))
        finals.append(states)
    y = torch.stack(sequences, 1) if batch else call.x.new_zeros(steps, 0, cell.output_width)
    return y, tuple(map(torch.cat, zip(*finals, strict=True)))


def step(core: Any, x: Any, state: Any) -> tuple[Any, Any]:
    """Return (output, state) of a cell or a stack after one step of rows [B, I]."""
    if isinstance(core, Cell):
        y, after = advance(core, x, state)
        return core.by_name(y), after
    found: list[Any] = []
    for i, (member, before) in enumerate(zip(core.members, state, strict=True)):
        y, new = step(member, x, before)
        found.append(new)
        x = core.join(i, x, y)
    return x, tuple(found)


def in_float64(run: Runner, noise: torch.Generator | None = None, unit: float = 0.0) -> Runner:
    """Return `run` in float64, between tensors of the call's own dtype.

    noise: moves every number of the call by about one unit in the last place of that dtype, or by `unit` if it is more.

    Raises:
        UnsupportedError: the step draws random numbers of its own, which no two runs share.
    """

    def precisely(cell: Cell, call: Call) -> Results:
        before, wide = torch.get_rng_state(), _widened(call, noise, unit)
        with _InFloat64():
            y, finals = run(cell, wide)
        if not torch.equal(before, torch.get_rng_state()):
            raise UnsupportedError(
                f"{type(cell).__name__} draws random numbers inside its step, which no two runs share"
            )
        dtype = call.state[0].dtype
        return y.to(dtype), tuple(s.to(dtype) for s in finals)

    return precisely


def step_in_float64(core: nn.Module, x: Tensor, state: Any, noise: torch.Generator | None = None) -> tuple[Any, Any]:
    """Return `step` in float64, between tensors of the dtype of x; `noise` as in `in_float64`."""
    wide_x, wide_state = widened(x, noise), map_state(lambda s: widened(s, noise), state)
    with _InFloat64():
        y, after = step(core, wide_x, wide_state)
    return each(lambda rows: rows.to(x.dtype), y), map_state(lambda s: s.to(x.dtype), after)


def widened(tensor: Tensor, noise: torch.Generator | None = None, unit: float = 0.0) -> Tensor:
    """Return a tensor in float64, each number moved as `in_float64` says if `noise`."""
    if not tensor.is_floating_point():
        return tensor
    wide = tensor.double()
    if noise is None:
        return wide
    unit = max(unit, torch.finfo(tensor.dtype).eps)
    return wide * (1 + unit * torch.randn(tensor.shape, generator=noise, dtype=torch.float64).to(tensor.device))


def _widened(call: Call, noise: torch.Generator | None, unit: float) -> Call:
    def all_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: widened(t, noise, unit) for name, t in tensors.items()}

    def each(tensors: Iterable[Tensor | None]) -> tuple[Any, ...]:
        return tuple(t if t is None else widened(t, noise, unit) for t in tensors)

    values = Bindings(*map(all_of, (call.values.fixed, call.values.rows, call.values.steps)))
    return replace(
        call, values=values, x=widened(call.x, noise, unit), state=each(call.state), restart=each(call.restart)
    )


class _InFloat64(TorchFunctionMode):
    """Whatever floating-point tensor PyTorch is given, constants of a step too, it sees in float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        exact = _EXACT.get(func) if len(args) == 1 and not (kwargs or {}).get("inplace") else None
        return exact(*_deep(args)) if exact else func(*_deep(args), **_deep(kwargs or {}))


def _hardsigmoid(x: Tensor) -> Tensor:
    return torch.where(x <= -3, 0, torch.where(x >= 3, 1, x / 6 + 0.5))


# PyTorch takes the gradients of these with a sixth in float32, whatever the dtype.
_EXACT: dict[Any, Callable[[Tensor], Tensor]] = {
    functional.hardsigmoid: _hardsigmoid,
    functional.hardswish: lambda x: x * _hardsigmoid(x),
}


def _deep(thing: Any) -> Any:
    if isinstance(thing, Tensor):
        return thing.double() if thing.is_floating_point() else thing
    if isinstance(thing, dict):
        return {name: _deep(part) for name, part in thing.items()}
    return type(thing)(map(_deep, thing)) if type(thing) in (tuple, list) else thing
