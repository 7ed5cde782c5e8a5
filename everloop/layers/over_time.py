"""A cell, a stack or a bidirectional pair over a whole sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from everloop.cell import Cell
from everloop.compiler.call import Call
from everloop.compiler.time_axis import TimeAxis
from everloop.errors import CellError, OptionError
from everloop.layers.bidirectional import Bidirectional
from everloop.layers.dispatch import run
from everloop.layers.dropout import Wrapper, values_of
from everloop.layers.extras import Extras
from everloop.layers.nested import each
from everloop.layers.stack import Stack


def over_time(
    module: nn.Module, x: Any, state: Any, start: Any, time: TimeAxis, extras: Extras, target: str | None, check: bool
) -> tuple[Any, Any]:
    """Return (output [T, B, n], final state) of `module` over x [T, B, I]; several outputs as a NamedTuple.

    state: rows [B, n] nested as the module's state; start: the vectors [n] a reset returns to, or None for zeros.
    """
    if isinstance(module, Cell):
        restart = (None,) * len(state) if start is None else tuple(start)
        values = values_of(module, time.steps, time.batch, extras)
        if isinstance(module, Wrapper) and module.inference_only:
            _need_no_gradient(module, x, *state)
        y, final = run(module, Call(values, x, tuple(state), restart, time, extras.read), target, check)
        return module.by_name(y), final
    if isinstance(module, Stack):
        after: list[Any] = []
        for i, (member, before) in enumerate(zip(module.members, state, strict=True)):
            y, new = over_time(member, x, before, start and start[i], time, extras, target, check)
            after.append(new)
            joined = module.join(i, x, y, extras.generator)
            x = each(time.cleared, joined) if module.residual else joined
        return x, tuple(after)
    if isinstance(module, Bidirectional):
        y_ahead, ahead = over_time(module.ahead, x, state[0], start and start[0], time, extras, target, check)
        y_back, behind = over_time(module.back, x, state[1], start and start[1], time.opposite(), extras, target, check)
        return module.join(y_ahead, y_back), (ahead, behind)
    raise CellError(f"cannot run {type(module).__name__} over time; expected a Cell, a Stack or a Bidirectional")


def _need_no_gradient(module: nn.Module, *given: Any) -> None:
    """Raise OptionError where a gradient is wanted of what has none."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in given):
        raise OptionError(
            f"{type(module).__name__} is for inference, and x or the state requires a gradient; call it in"
            " torch.no_grad(), or train the layer that it was made from"
        )
