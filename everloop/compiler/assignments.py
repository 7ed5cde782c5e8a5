"""What an assignment to a part of a value makes of it."""

from __future__ import annotations

import math
from typing import Any

import torch

from everloop.compiler import aliases, dtypes
from everloop.compiler.aliases import Place
from everloop.compiler.functions import where
from everloop.compiler.indexing import whole_index
from everloop.compiler.ir import Type
from everloop.compiler.locations import unsupported
from everloop.compiler.pytree import tree_leaves
from everloop.compiler.symbol import Number, Symbol, elementwise, known


@known("setitem", integers="choice")
def with_part(a: Symbol, index: Any, value: Any) -> Symbol:
    """The value after an assignment to places that a fixed index names, or to those where a mask is true."""
    if not isinstance(a, Symbol):
        raise unsupported("an assignment to a tensor without the batch; make it from x, as x.new_zeros(x.shape[0], n)")
    if a.dtype != a.float_dtype and getattr(value, "dtype", type(value)) not in (a.dtype, bool):
        raise unsupported(f"an assignment to a part of a value of {a.dtype}; write torch.cat or torch.where")
    value = dtypes.converted(value, a.dtype) if isinstance(value, Number) else value
    found = place(aliases.own(a), index)
    if found is None:
        if getattr(value, "ndim", 0) or index.shape != a.shape:
            raise unsupported("an assignment of several numbers where a mask is true; write torch.where(mask, b, a)")
        return where(index, value, a)
    axes = tuple(found.places.shape[1:])
    ones = a.like(a.builder.constant(1.0, Type((math.prod(axes),), rows=True)), axes)
    return a.like(aliases.written(a, found.index, elementwise("mul", ones, value)), a.axes)


def place(of: Place, index: Any) -> Place | None:
    """Return the place of what an index names; None of a mask that the step computes."""
    if isinstance(index, Symbol) and index.rows and index.is_mask:
        return None
    if any(isinstance(leaf, Symbol) for leaf in tree_leaves(index)):
        raise unsupported(
            "an index that a step computes; write a product with torch.nn.functional.one_hot or torch.where"
        )
    first = whole_index(index, of.places.ndim)[0]
    if not isinstance(first, slice) or first != slice(None):
        raise unsupported("an assignment along dimension 0, the batch, whose sequences do not mix")
    found = Place(of.whole, dtypes.on_examples(torch.Tensor.__getitem__, (of.places, index), {}))
    if aliases.is_expanded(found):
        raise unsupported("an assignment that names a place twice; write torch.cat or torch.where")
    return found
