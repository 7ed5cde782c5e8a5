"""What the tests of single steps compare with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from everloop.layers import Recurrent
from everloop.layers.dispatch import using
from everloop.layers.extras import declared
from everloop.layers.nested import each, leaves
from tests.zoo import Given, given

NOTHING = Given({}, {})

F64 = torch.float64


def is_single(layer: Recurrent, x: Tensor, state: Any = None, told: Any = None) -> bool:
    """Whether a step of the layer is one call of one kernel."""
    return layer._stepper.step(layer.cell, x, state, layer.start, layer.target, None, told or {}) is not None


def close(got: Any, expected: Any, steps: int = 1) -> None:
    for a, b in zip(leaves(got), leaves(expected), strict=True):
        torch.testing.assert_close(
            a, b, rtol=steps * 20 * torch.finfo(a.dtype).eps, atol=steps * 20 * torch.finfo(a.dtype).eps
        )


def stepped(layer: Recurrent, x: Tensor, state: Any = None, told: Given = NOTHING) -> tuple[Any, Any]:
    """Return what single steps over x [T, ...] give, with what is `told` beside it."""
    outputs: list[Any] = []
    for t, row in enumerate(x):
        y, state = layer.step(row, state, **told.at(t))
        outputs.append(y)
    if isinstance(outputs[0], tuple):
        return type(outputs[0])(*map(torch.stack, zip(*outputs, strict=True))), state
    return torch.stack(outputs), state


def same_as_eager(layer: Recurrent, x: Tensor, state: Any = None) -> None:
    """Check one row of steps against plain PyTorch."""
    told, is_reading = given(layer, x), any(expected.is_memory for expected in declared(layer.cell).values())
    with torch.no_grad():
        assert is_single(layer, x[0], told=told.at(0)) is not is_reading
        got = stepped(layer, x, state, told)
        with using("eager"):
            batch_first = layer.batch_first and x.dim() == 3
            y, after = layer(
                x.transpose(0, 1) if batch_first else x, state, **told.swapped if batch_first else told.at()
            )
        close(got, (each(lambda t: t.transpose(0, 1), y) if batch_first else y, after), len(x))


def the_call(layer: Recurrent) -> Any:
    """Return the one native call that the layer's steps have made so far."""
    ready: Any = layer._stepper._guarded
    (form,) = ready._forms.values()
    return form.call
