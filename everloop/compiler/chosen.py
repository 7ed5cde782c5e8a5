"""The numbers of a row where a mask of the step is true, as in `v[v < 0] *= 0.1`: how many there are is not known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from everloop.compiler.locations import unsupported
from everloop.compiler.symbol import MissingAttribute, Number, Symbol

_ADVICE = "; v[mask] meets numbers and v[mask] of the same mask; write torch.where(mask, a, b)"


def is_chosen_by(a: Any, index: Any) -> bool:
    """Whether an index is a mask that the step computes, of the shape of a row."""
    masked = isinstance(a, Symbol) and a.rows and isinstance(index, Symbol) and index.rows and index.is_mask
    return masked and index.axes == a.axes


def refusal() -> MissingAttribute:
    return MissingAttribute(str(unsupported(f"an index that a step computes{_ADVICE}")))


class Chosen:
    """What a row has where a mask is true, a copy as in PyTorch, which may be changed and written back there."""

    def __init__(self, a: Symbol, mask: Symbol):
        self.all = Symbol.call("clone", a)
        self.mask = Symbol.call("clone", mask)

    def within(self, a: Symbol, index: Any) -> Any:
        """Return a row with these numbers where the mask is true."""
        if not is_chosen_by(a, index) or index.value is not self.mask.value:
            self._refuse()
        return Symbol.call("where", self.mask, self.all, a)

    def _safe(self) -> Any:
        """The row with 1 where the mask is false, of which no operation has a slope that is infinite."""
        return Symbol.call("where", self.mask, self.all, 1.0)

    def _met(self, name: str, other: Any, swapped: bool) -> Any:
        if isinstance(other, Chosen) and other.mask.value is self.mask.value and other.mask.axes == self.mask.axes:
            other = other._safe()
        elif isinstance(other, Symbol):
            if other.rows or other.ndim > 1 or math.prod(other.shape) != 1:
                self._refuse()
        elif not isinstance(other, Number):
            self._refuse()
        return Symbol.call(name, *((other, self._safe()) if swapped else (self._safe(), other)))

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise refusal()

    def __getattr__(self, _: str) -> Any:
        self._refuse()

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise refusal()

    __bool__ = __index__ = __int__ = __float__ = __iter__ = __len__ = __getitem__ = __setitem__ = _refuse
    __lt__ = __gt__ = __le__ = __ge__ = __eq__ = __ne__ = __abs__ = __matmul__ = __mod__ = __floordiv__ = _refuse
    __hash__ = object.__hash__

    def __neg__(self) -> Chosen:
        return Chosen(self._met("mul", -1, swapped=False), self.mask)


def _operator(name: str, *, swapped: bool = False) -> Callable[..., Any]:
    def apply(self: Chosen, other: Any) -> Any:
        return Chosen(self._met(name, other, swapped), self.mask)

    return apply


def _in_place(name: str) -> Callable[..., Any]:
    def apply(self: Chosen, other: Any) -> Any:
        result = self._met(name, other, swapped=False)
        if result.dtype != self.all.dtype:
            self._refuse()
        self.all = result
        return self

    return apply


for _name in ("add", "sub", "mul", "truediv", "pow"):
    setattr(Chosen, f"__{_name}__", _operator(_name))
    setattr(Chosen, f"__r{_name}__", _operator(_name, swapped=True))
    setattr(Chosen, f"__i{_name}__", _in_place(_name))
