"""What a step computes with when the compiler calls it: symbols that look like tensors and record what happens."""

from __future__ import annotations

import inspect
import operator
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from types import MethodType
from typing import Any, ClassVar

import torch

from everloop.compiler import dtypes
from everloop.compiler.ir import Builder, Type, Value
from everloop.compiler.locations import line_of_cell, unsupported
from everloop.compiler.opaque import HOLE, WIDENING, OpaqueCall
from everloop.compiler.pytree import tree_leaves, tree_map
from everloop.errors import UnsupportedError


class MissingAttribute(UnsupportedError, AttributeError):  # noqa: N818 - it is an UnsupportedError
    """A tensor attribute that symbols do not have."""


class BatchSize:
    """The number of sequences, which the compiler does not know."""

    def __repr__(self) -> str:
        return "B"

    def _refuse(self, *_: Any) -> Any:
        raise unsupported("arithmetic or a comparison with the batch size")

    __rtruediv__ = __rfloordiv__ = __pow__ = __rpow__ = __mod__ = __neg__ = _refuse
    __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = __truediv__ = __floordiv__ = _refuse
    __int__ = __index__ = __float__ = __lt__ = __gt__ = __le__ = __ge__ = __bool__ = _refuse

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BatchSize) or bool(self._refuse())

    def __hash__(self) -> int:
        return id(BatchSize)


BATCH_SIZE = BatchSize()


class Symbol:
    """A tensor without numbers.

    value: what it is in the graph.
    float_dtype: the type in which the loop computes; dtype: that of the tensor.
    bound: the tensor holds whole numbers of this size at most; None where they may be any numbers.
    is_flat: a row of one feature whose feature axis was reduced away, shape [B].
    is_shared: another symbol would lie in the same memory.
    """

    handlers: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __init__(
        self, value: Value, builder: Builder, loop: torch.dtype, dtype: torch.dtype | None = None, *, flat: bool = False
    ):
        self.value = value
        self.builder = builder
        self.float_dtype = loop
        self.dtype = dtype or loop
        self.bound = 1.0 if dtype == torch.bool else None
        self.is_flat = flat
        self.is_shared = False

    def like(self, value: Value, *, flat: bool = False) -> Symbol:
        """Return another symbol of the same trace."""
        return Symbol(value, self.builder, self.float_dtype, flat=flat)

    @property
    def is_mask(self) -> bool:
        """Whether the tensor would be boolean."""
        return self.dtype == torch.bool

    @property
    def rows(self) -> bool:
        return self.value.type.rows

    @property
    def shape(self) -> Any:
        if self.is_flat:
            return (BATCH_SIZE,)
        return (BATCH_SIZE, *self.value.type.shape) if self.rows else torch.Size(self.value.type.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

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

    mT = T  # noqa: N815 - torch's name

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
        if name not in self.handlers and (self.rows or not callable(getattr(torch.Tensor, name, None))):
            error = unsupported(f"the tensor attribute {name!r}")
            raise MissingAttribute(str(error))
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
    watching = sys.getprofile()
    if not isinstance(watching, MethodType):
        return _call(name, args, kwargs, function)
    sys.setprofile(None)  # what happens here is not the step's doing (effects.py)
    try:
        return _call(name, args, kwargs, function)
    finally:
        sys.setprofile(watching)


def _call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], function: Any) -> Any:
    if not torch.is_grad_enabled():
        raise unsupported(
            f"the operation {name!r} while gradients are switched off; write .detach() instead of torch.no_grad() "
            "(a torch.autograd.Function of your own needs no change: eager runs it)"
        )
    if torch.is_autocast_enabled("cpu"):
        raise unsupported(f"the operation {name!r} under torch.autocast; put the layer, not the step, under it")
    if kwargs.get("inplace"):
        raise unsupported(f"the operation {name!r} with inplace=True; leave that out")
    inside = list(tree_leaves((args, kwargs)))
    origin = next(leaf for leaf in inside if isinstance(leaf, Symbol))
    origin.builder.line = line_of_cell()
    function = function or _function_of(name)
    handler = Symbol.handlers.get(name)
    has_rows = any(isinstance(leaf, Symbol) and leaf.rows for leaf in inside)
    if has_rows:
        try:
            if handler is None:
                raise unsupported(f"the operation {name!r}")
            result = _handle(name, handler, function, args, kwargs)
        except UnsupportedError as error:
            origin.builder.refused = error
            raise
        if name in VIEWS:
            for thing in tree_leaves((args[0], result)):
                if isinstance(thing, Symbol):
                    thing.is_shared = True
        return result
    if handler is not None:
        try:
            return _handle(name, handler, function, args, kwargs)
        except UnsupportedError:
            pass  # of fixed values PyTorch itself computes the rest, before the loop
    return _opaque(origin, name, function, args, kwargs)


def _function_of(name: str) -> Any:
    """Return what PyTorch calls for an operator or an attribute of a tensor."""
    return getattr(operator, name, None) or getattr(operator, f"{name}_", None) or getattr(torch, name, None)


# What lies in the memory of its first argument, so that a change of one is a change of the other.
VIEWS = frozenset(
    {"getitem", "narrow", "split", "split_with_sizes", "chunk", "tensor_split", "unbind", "unsqueeze", "squeeze", "t",
     "expand", "expand_as", "view", "view_as", "reshape", "reshape_as", "detach", "to", "type", "type_as", "float",
     "double"}
)  # fmt: skip
_signature = cache(inspect.signature)


def _handle(name: str, handler: Callable[..., Any], function: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    """Return what a handler makes of a call, with the shapes and types that PyTorch gives."""
    try:
        _signature(handler).bind(*args, **kwargs)
    except TypeError as error:
        raise unsupported(f"the operation {name!r} with these arguments ({error})") from error
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Symbol | torch.Tensor | int | float)]
    inside = [leaf for leaf in given if not isinstance(leaf, int | float)]
    origin = next(leaf for leaf in inside if isinstance(leaf, Symbol))
    kinds, loop = [leaf.dtype for leaf in inside], origin.float_dtype
    if dtypes.is_narrower(narrow := dtypes.computing(kinds), loop) and name not in dtypes.CASTS:
        args, kwargs = tree_map((args, kwargs), lambda n: dtypes.converted(n, narrow) if type(n) is float else n)
    try:
        result = handler(*args, **kwargs)
    except ValueError as error:
        raise unsupported(f"the operation {name!r}: {error}") from error
    is_plain = all(kind == loop for kind in kinds)
    if is_plain and name in dtypes.PRODUCTS_WITH_A_MATRIX:
        return result
    sizes = {n for leaf in inside for n in (leaf.value.type.shape if isinstance(leaf, Symbol) else leaf.shape)}
    batch = next(n for n in count(13) if n not in sizes)
    try:
        expected = dtypes.on_stand_ins(function, *tree_map((args, kwargs), lambda leaf: _stand_in(leaf, batch)))
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        raise unsupported(f"the operation {name!r}, which PyTorch refuses: {error}") from error
    bounds = [leaf.bound if isinstance(leaf, Symbol) else dtypes.bound_of(leaf) for leaf in given]
    size = dtypes.bound(name, bounds, origin.value.width, kwargs.get("alpha", 1))
    # A number times what is at most one is exact, whatever the type.
    exact = [torch.bool if b is not None and b <= 1 else leaf.dtype
             for b, leaf in zip(bounds, given, strict=True) if not isinstance(leaf, int | float)]  # fmt: skip
    is_any = loop not in kinds and name not in dtypes.CASTS and any(map(_is_any_whole, inside))
    for symbol, tensor in zip(_several(result), _several(expected), strict=True):
        if is_any and not tensor.dtype.is_floating_point:
            raise unsupported(f"the operation {name!r} of whole numbers of any size")
        _settle(name, symbol, tensor, size, exact, batch)
    return result


def _settle(name: str, symbol: Symbol, like: Any, size: float | None, kinds: list[torch.dtype], batch: int) -> None:
    """Give the result of a call the type that PyTorch gives it."""
    shape = tuple(batch if isinstance(n, BatchSize) else n for n in symbol.shape)
    if not isinstance(like, torch.Tensor) or like.shape != shape or not like.is_cpu:
        raise unsupported(f"the operation {name!r} here, which gives {_described(like)}, not {list(shape)}")
    value, builder = symbol.value, symbol.builder
    if name in dtypes.FILLED:
        symbol.value = builder.constant(dtypes.converted(value.data[0], like.dtype), value.type)
        size = dtypes.bound_of(symbol.value.number)
    if name in dtypes.CASTS and like.dtype == torch.bool and not symbol.is_mask:
        symbol.value = builder.sub(1.0, builder.equal(value, 0.0))
    if name in dtypes.SIGNED and not (like.dtype.is_floating_point or like.dtype == torch.bool):
        symbol.value = builder.where(builder.equal(value, 0.0), 0.0, value)
    if found := dtypes.obstacle(name, like.dtype, symbol.float_dtype, size, kinds):
        raise unsupported(f"the operation {name!r} with {found}")
    symbol.dtype, symbol.bound = like.dtype, 1.0 if like.dtype == torch.bool else size


def _is_any_whole(thing: Any) -> bool:
    return isinstance(thing, Symbol) and thing.bound is None and not thing.dtype.is_floating_point


def _several(result: Any) -> Any:
    return result if isinstance(result, tuple | list) else (result,)


def _described(thing: Any) -> str:
    if isinstance(thing, torch.Tensor):
        return f"{list(thing.shape)} on {thing.device.type}"
    return str(thing.__class__.__name__)


def _stand_in(leaf: Any, batch: int) -> Any:
    if isinstance(leaf, BatchSize):
        return batch
    if isinstance(leaf, torch.Tensor):
        return leaf.detach()
    if not isinstance(leaf, Symbol):
        return leaf
    return dtypes.stand_in(leaf.dtype, tuple([batch if isinstance(n, BatchSize) else n for n in leaf.shape]))


_RANDOM = re.compile("rand|bernoulli|dropout|multinomial|poisson|exponential|uniform|gumbel|normal$")


def _opaque(origin: Symbol, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if function is None or name.endswith("_") or _RANDOM.search(name):
        raise unsupported(f"the operation {name!r} of fixed values")
    found = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Symbol)]
    loop = origin.float_dtype
    if any(map(_is_any_whole, found)):
        raise unsupported(f"the operation {name!r} of whole numbers of any size")
    template = tree_map((args, kwargs), lambda leaf: HOLE if isinstance(leaf, Symbol) else leaf)
    kinds = tuple(None if s.dtype == loop else s.dtype for s in found)
    whole = OpaqueCall(name, function, template, kinds)
    example = whole(*(torch.empty(s.value.type.shape, dtype=loop, device="meta") for s in found))

    def one(call: OpaqueCall, result: Any) -> Symbol:
        kind = result.dtype if isinstance(result, torch.Tensor) else None
        if kind is None or not dtypes.is_held(kind, loop):
            raise unsupported(f"the operation {name!r} of fixed values, which gives {kind or type(result).__name__}")
        value = origin.builder.make("call", *(s.value for s in found), data=(call,), type=Type(tuple(result.shape)))
        if kind != loop:
            value = origin.builder.make("call", value, data=(WIDENING[loop],), type=value.type)
        return Symbol(value, origin.builder, loop, kind)

    if isinstance(example, tuple | list):
        return tuple(one(OpaqueCall(name, function, template, kinds, k), part) for k, part in enumerate(example))
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
        if (result.value.type, result.dtype) != (self.value.type, self.dtype):
            raise unsupported(f"{name} in place with a result of another shape or kind")
        self.value, self.bound = result.value, result.bound
        return self

    return apply


for _name in ("add", "sub", "mul", "truediv", "pow"):
    setattr(Symbol, f"__i{_name}__", _in_place(_name))
for _name in ("add", "sub", "mul", "truediv", "pow", "matmul", "and", "or", "xor", "mod", "floordiv"):
    setattr(Symbol, f"__{_name}__", _operator(_name))
    setattr(Symbol, f"__r{_name}__", _operator(_name, swapped=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert"):
    setattr(Symbol, f"__{_name}__", _operator(_name))
