"""In which dtypes a call runs: that of its parameters, or what autocast asks for."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from everloop.compiler.bindings import Bindings
from everloop.compiler.call import Call, Results


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return the dtype that autocast asks for on the device of x; None where it is off."""
    kind = x.device.type
    if x.is_meta or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def under_autocast(call: Call, low: torch.dtype) -> tuple[Call, torch.dtype | None]:
    """Return the call with states in the dtype of the parameters, and `low` where autocast has a say.

    As in PyTorch's own layers, it has none in float64. x has that dtype too, or `low`, in which large products read it.
    """
    dtype = next((t.dtype for t in call.values.fixed.values() if t.is_floating_point()), call.state[0].dtype)
    has_say = dtype == torch.float32
    call = replace(
        call, x=call.x if has_say and call.x.dtype == low else call.x.to(dtype),
        state=tuple(s.to(dtype) for s in call.state),
        restart=tuple(None if r is None else r.to(dtype) for r in call.restart),
    )  # fmt: skip
    return call, low if has_say else None


def as_states(call: Call, low: torch.dtype | None) -> Call:
    """Return the call with x in the dtype of its states, where `under_autocast` has left it in `low`."""
    if low is None or call.x.dtype != low:
        return call
    return replace(call, x=call.x.to(call.state[0].dtype))


def converted_values(values: Bindings, dtype: torch.dtype) -> Bindings:
    """Return the numbers a step sees, all floats in this dtype."""
    return Bindings(
        *({n: _to(t, dtype) for n, t in part.items()} for part in (values.fixed, values.rows, values.steps))
    )


def converted(call: Call, dtype: torch.dtype, *, states_only: bool = False) -> Call:
    """Return a call whose floats, or only its states, have this dtype."""
    call = replace(
        call, state=tuple(_to(s, dtype) for s in call.state),
        restart=tuple(None if r is None else _to(r, dtype) for r in call.restart),
    )  # fmt: skip
    return call if states_only else replace(call, x=_to(call.x, dtype), values=converted_values(call.values, dtype))


def results_in(results: Results, dtype: torch.dtype | None) -> Results:
    """Return results in a dtype; None leaves them as they are."""
    y, final = results
    return (y, final) if dtype is None else (y.to(dtype), tuple(s.to(dtype) for s in final))


def _to(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
