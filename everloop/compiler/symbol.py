"""What a step computes with when the compiler calls it: symbols that look like tensors and record what happens."""

from __future__ import annotations

import inspect
import operator
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch

from everloop.compiler.ir import Builder, Type, Value
from everloop.errors import UnsupportedError

_PACKAGE = Path(__file__).parent.parent
_CELLS = str(_PACKAGE / "cells")
_INSIDE = (str(_PACKAGE), str(Path(torch.__file__).parent), "<frozen")
_is_inside: dict[str, bool] = {}  # by file


class Missing(UnsupportedError, AttributeError):  # noqa: N818 - it is an UnsupportedError
    """A tensor attribute that symbols do not have."""


class Batch:
    """The number of sequences, which the compiler does not know."""

    def __repr__(self) -> str:
        return "B"

    def _refuse(self, *_: Any) -> Any:
        raise unsupported("arithmetic or a comparison with the batch size")

    __rtruediv__ = __rfloordiv__ = __pow__ = __rpow__ = __mod__ = __neg__ = _refuse
    __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = __truediv__ = __floordiv__ = _refuse
    __int__ = __index__ = __float__ = __lt__ = __gt__ = __le__ = __ge__ = __bool__ = _refuse

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Batch) or bool(self._refuse())

    def __hash__(self) -> int:
        return id(Batch)


BATCH = Batch()


def line_of_cell() -> str:
    """Return file:line of the innermost caller outside PyTorch and the compiler."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        if not is_inside(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def is_inside(file: str) -> bool:
    """Whether code is PyTorch's or the library's, whose cells do not count."""
    if file not in _is_inside:
        _is_inside[file] = file.startswith(_INSIDE) and not file.startswith(_CELLS)
    return _is_inside[file]


def unsupported(what: str) -> UnsupportedError:
    """Return the error for an operation outside the table: it names the operation and the line of the cell."""
    return UnsupportedError(f"the compiler does not know {what} ({line_of_cell()})")


class Symbol:
    """A tensor without numbers.

    value: what it is in the graph.
    is_mask: the tensor would be boolean.
    is_flat: a row of one feature whose feature axis was reduced away, shape [B].
    is_shared: another symbol would lie in the same memory.
    """

    handlers: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __init__(self, value: Value, builder: Builder, dtype: torch.dtype, *, mask: bool = False, flat: bool = False):
        self.value = value
        self.builder = builder
        self.float_dtype = dtype
        self.is_mask = mask
        self.is_flat = flat
        self.is_shared = False

    def like(self, value: Value, *, mask: bool = False, flat: bool = False) -> Symbol:
        """Return another symbol of the same trace."""
        return Symbol(value, self.builder, self.float_dtype, mask=mask, flat=flat)

    @property
    def rows(self) -> bool:
        return self.value.type.rows

    @property
    def shape(self) -> Any:
        if self.is_flat:
            return (BATCH,)
        return (BATCH, *self.value.type.shape) if self.rows else torch.Size(self.value.type.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        return torch.bool if self.is_mask else self.float_dtype

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def is_cuda(self) -> bool:
        return False

    @property
    def requires_grad(self) -> bool:
        raise unsupported("whether a value of the step requires a gradient")

    @property
    def T(self) -> Any:
        return call("t", self)

    @property
    def mT(self) -> Any:
        return call("t", self)

    @property
    def data(self) -> Any:
        return call("detach", self)

    def dim(self) -> int:
        return self.ndim

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not all(issubclass(t, Symbol | torch.Tensor) for t in types):
            return NotImplemented  # another stand-in for a tensor knows better
        name = getattr(function, "__name__", str(function))
        owner = getattr(function, "__self__", None)
        if name == "__get__" and owner is not None:  # a tensor property: Tensor.shape, Tensor.T
            return getattr(args[0], owner.__name__)
        return call(name.strip("_") if name.startswith("__") else name, *args, function=function, **(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self.handlers and (self.rows or not hasattr(torch.Tensor, name)):
            error = unsupported(f"the tensor attribute {name!r}")
            raise Missing(str(error))
        return lambda *args, **kwargs: call(name, self, *args, function=getattr(torch.Tensor, name), **kwargs)

    def __bool__(self) -> bool:
        raise unsupported("Python control flow on a value of the step (if, while, and, or); write torch.where")

    def _number(self) -> Any:
        raise unsupported("turning a value of the step into a Python number")

    __float__ = __int__ = __index__ = __complex__ = _number

    def __array__(self, *_: Any) -> Any:
        raise unsupported("turning a value of the step into a NumPy array")

    def __len__(self) -> int:
        if self.rows:
            raise unsupported("len() of a row, the batch size")
        return int(self.shape[0])

    def __iter__(self) -> Iterator[Symbol]:
        raise unsupported("iteration over a value of the step; write chunk, split or unbind along features")

    def __setitem__(self, index: Any, value: Any) -> None:
        raise unsupported("assignment to a part of a value; write torch.cat or torch.where")

    def __getitem__(self, index: Any) -> Any:
        return call("getitem", self, index)

    def __hash__(self) -> int:
        return id(self)


def call(name: str, *args: Any, function: Any = None, **kwargs: Any) -> Any:
    """Return what the function `name` makes of symbols, tensors and numbers."""
    if not torch.is_grad_enabled():
        raise unsupported(
            f"the operation {name!r} while gradients are switched off; write .detach() instead of torch.no_grad() "
            "(a torch.autograd.Function of your own needs no change: eager runs it)"
        )
    if torch.is_autocast_enabled("cpu"):
        raise unsupported(f"the operation {name!r} under torch.autocast; put the layer, not the step, under it")
    if kwargs.get("inplace"):
        raise unsupported(f"the operation {name!r} with inplace=True; leave that out")
    inside = list(leaves((args, kwargs)))
    origin = next(leaf for leaf in inside if isinstance(leaf, Symbol))
    origin.builder.line = line_of_cell()
    handler = Symbol.handlers.get(name)
    has_rows = any(isinstance(leaf, Symbol) and leaf.rows for leaf in inside)
    if has_rows:
        try:
            if handler is None:
                raise unsupported(f"the operation {name!r}")
            result = _handle(name, handler, args, kwargs)
        except UnsupportedError as error:
            origin.builder.refused = error
            raise
        if name in VIEWS:
            for thing in leaves((args[0], result)):
                if isinstance(thing, Symbol):
                    thing.is_shared = True
        return result
    if handler is not None:
        try:
            return _handle(name, handler, args, kwargs)
        except UnsupportedError:
            pass  # of fixed values PyTorch itself computes the rest, before the loop
    return _opaque(origin, name, function or getattr(operator, name, None), args, kwargs)


# What lies in the memory of its first argument, so that a change of one is a change of the other.
VIEWS = frozenset(
    {"getitem", "narrow", "split", "split_with_sizes", "chunk", "tensor_split", "unbind", "unsqueeze", "squeeze", "t",
     "expand", "expand_as", "view", "view_as", "reshape", "reshape_as", "detach", "to", "type", "type_as", "float",
     "double"}
)  # fmt: skip
_signature = cache(inspect.signature)


def _handle(name: str, handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        _signature(handler).bind(*args, **kwargs)
    except TypeError as error:
        raise unsupported(f"the operation {name!r} with these arguments ({error})") from error
    try:
        return handler(*args, **kwargs)
    except ValueError as error:
        raise unsupported(f"the operation {name!r}: {error}") from error


def leaves(tree: Any) -> Iterator[Any]:
    """Yield what nested tuples, lists and dictionaries hold."""
    if isinstance(tree, tuple | list):
        for branch in tree:
            yield from leaves(branch)
    elif isinstance(tree, dict):
        yield from leaves(list(tree.values()))
    else:
        yield tree


@dataclass(frozen=True, eq=False)
class Call:
    """A PyTorch function with holes for its arguments, run before the loop."""

    name: str
    function: Callable[..., Any]
    template: Any
    part: int | None = None

    def __str__(self) -> str:
        return self.name if self.part is None else f"{self.name}[{self.part}]"

    def __call__(self, *values: Any) -> Any:
        remaining = iter(values)

        def fill(tree: Any) -> Any:
            if isinstance(tree, tuple | list):
                return type(tree)(fill(branch) for branch in tree)
            if isinstance(tree, dict):
                return {k: fill(v) for k, v in tree.items()}
            return next(remaining) if tree is _HOLE else tree

        args, kwargs = fill(self.template)
        result = self.function(*args, **kwargs)
        return result if self.part is None else result[self.part]


_HOLE = object()
_RANDOM = re.compile("rand|bernoulli|dropout|multinomial|poisson|exponential|uniform|gumbel|normal$")


def _opaque(origin: Symbol, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if function is None or name.endswith("_") or _RANDOM.search(name):
        raise unsupported(f"the operation {name!r} of fixed values")
    found: list[Value] = []

    def hole(tree: Any) -> Any:
        if isinstance(tree, tuple | list):
            return type(tree)(hole(branch) for branch in tree) if type(tree) in (tuple, list) else tree
        if isinstance(tree, dict):
            return {k: hole(v) for k, v in tree.items()}
        if isinstance(tree, Symbol):
            found.append(tree.value)
            return _HOLE
        return tree

    template = hole((args, kwargs))
    whole = Call(name, function, template)
    example = whole(*(torch.empty(v.type.shape, dtype=origin.float_dtype, device="meta") for v in found))

    def one(call: Call, result: Any) -> Symbol:
        if not isinstance(result, torch.Tensor) or not (result.dtype.is_floating_point or result.dtype == torch.bool):
            raise unsupported(f"the operation {name!r} of fixed values, which gives {type(result).__name__}")
        value = origin.builder.make("call", *found, data=(call,), type=Type(tuple(result.shape)))
        return origin.like(value, mask=result.dtype == torch.bool)

    if isinstance(example, tuple | list):
        return tuple(one(Call(name, function, template, k), part) for k, part in enumerate(example))
    return one(whole, example)


def _operator(name: str, *, swapped: bool = False) -> Callable[..., Any]:
    def apply(self: Symbol, *others: Any) -> Any:
        if not all(isinstance(o, Symbol | torch.Tensor | float | int) for o in others):
            return NotImplemented
        return call(name, *others, self) if swapped else call(name, self, *others)

    return apply


def _in_place(name: str) -> Callable[..., Any]:
    def apply(self: Symbol, other: Any) -> Any:
        if self.is_shared or self.value.op == "input" or not self.rows:
            raise unsupported(f"{name} in place of a value that others share; write it out, such as a = a + b")
        result = call(name, self, other)
        if (result.value.type, result.is_mask) != (self.value.type, self.is_mask):
            raise unsupported(f"{name} in place with a result of another shape or kind")
        self.value = result.value
        return self

    return apply


for _name in ("add", "sub", "mul", "truediv", "pow"):
    setattr(Symbol, f"__i{_name}__", _in_place(_name))
for _name in ("add", "sub", "mul", "truediv", "pow", "matmul", "and", "or", "xor", "mod", "floordiv"):
    setattr(Symbol, f"__{_name}__", _operator(_name))
    setattr(Symbol, f"__r{_name}__", _operator(_name, swapped=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert"):
    setattr(Symbol, f"__{_name}__", _operator(_name))
