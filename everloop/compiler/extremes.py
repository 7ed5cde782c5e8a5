"""The largest and the smallest number along an axis, of which PyTorch's functions also give the place."""

from __future__ import annotations

from typing import Any

import torch

from everloop.compiler.advice import advice
from everloop.compiler.features import amax, amin, feature_axis, sum_
from everloop.compiler.functions import sub, where
from everloop.compiler.locations import unsupported
from everloop.compiler.scans import cumsum
from everloop.compiler.symbol import MissingAttribute, Symbol, elementwise, known


class Places:
    """Stands for the places of the largest numbers, with which a step cannot compute."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise MissingAttribute(str(unsupported(f"the place of the largest number{advice('argmax')}")))

    __getattr__ = __torch_function__ = __bool__ = __index__ = __int__ = __float__ = __iter__ = __getitem__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __lt__ = __gt__ = __le__ = __ge__ = __eq__ = __ne__ = _refuse
    __hash__ = object.__hash__


def _largest(a: Symbol, dim: int, keepdim: bool) -> Symbol:
    """The first of the largest, which gets the whole gradient; NaN counts as larger than all, as in PyTorch."""
    top = elementwise("stop", amax(a, dim, keepdim=True))
    is_top = elementwise("maximum", elementwise("equal", a, top), sub(1.0, elementwise("equal", a, a)))
    is_first = elementwise("mul", is_top, elementwise("equal", cumsum(is_top, dim), 1.0))
    return sum_(where(is_first, a, 0.0), dim, keepdim)


def _smallest(a: Symbol, dim: int, keepdim: bool) -> Symbol:
    return elementwise("neg", _largest(elementwise("neg", a), dim, keepdim))


def _extreme(name: str, along: Any) -> Any:
    def of(a: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
        second = dim if other is None else other
        if isinstance(second, Symbol | torch.Tensor):
            return elementwise(f"{name}imum", a, second)
        feature_axis(a, dim, name)
        return getattr(torch.return_types, name)((along(a, dim, keepdim), Places()))

    return of


known("max", integers="choice")(_extreme("max", _largest))
known("min", integers="choice")(_extreme("min", _smallest))


@known("aminmax")
def aminmax(a: Symbol, *, dim: Any = None, keepdim: bool = False) -> Any:
    both: Any = amin(a, dim, keepdim), amax(a, dim, keepdim)
    return torch.return_types.aminmax(both)
