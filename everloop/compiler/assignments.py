"""What an assignment to a part of a value makes of it."""

from __future__ import annotations

from typing import Any

from everloop.compiler.locations import unsupported
from everloop.compiler.shapes import bounds, cat, part, unsqueeze, whole_index
from everloop.compiler.symbol import Symbol, elementwise, known


@known("setitem", integers="choice")
def with_part(a: Symbol, index: Any, value: Any) -> Symbol:
    """The value after an assignment to places of one axis that lie side by side, or to all."""
    axes = whole_index(index, a.ndim)
    at = [k for k, i in enumerate(axes) if i != slice(None)]
    dim = at[0] if at else a.ndim - 1
    total, i = a.shape[dim], axes[dim]
    places = slice(i, (i + 1) or None) if type(i) is int else i
    if len(at) > 1 or not a.rows or not isinstance(places, slice):
        raise unsupported("this assignment to a part of a value; write torch.cat or torch.where")
    if a.dtype != a.float_dtype:
        raise unsupported(f"an assignment to a part of a value of {a.dtype}; write torch.cat or torch.where")
    start, stop, step = bounds(places, total)
    stop = max(start, stop)
    if step != 1 or (type(i) is int and not -total <= i < total):
        raise unsupported(f"an assignment at {i!r} along an axis of {total}; write torch.cat or torch.where")
    if type(i) is int and isinstance(value, Symbol) and value.rows:
        value = unsqueeze(value, dim)
    inside = part(a, dim, start, stop)
    filled = elementwise("mul", Symbol.call("ones_like", inside), value)
    return filled if stop - start == total else cat([part(a, dim, 0, start), filled, part(a, dim, stop, total)], dim)
