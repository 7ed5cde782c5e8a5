"""What a step computes with when the compiler calls it: symbols that look like tensors and record what happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch

from everloop.compiler.ir import Builder, Type, Value
from everloop.compiler.locations import unsupported
from everloop.compiler.operations import OPERATIONS, Integers, operation_of
from everloop.errors import UnsupportedError

Number = float | int | bool
Handler = TypeVar("Handler", bound=Callable[..., Any])


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


@dataclass(frozen=True)
class Function:
    """What the compiler knows of a function of PyTorch.

    handler: what it makes of symbols, tensors and numbers.
    integers: how integers come out of it, as in the table of operations.
    is_view: whether its result lies in the memory of its first argument, so that a change of one is a change of both.
    has_matrix: PyTorch checks and promotes nothing in it that `infer` does not, as long as all types are the same.
    """

    handler: Callable[..., Any]
    integers: Integers = ""
    is_view: bool = False
    has_matrix: bool = False


_FUNCTIONS: dict[str, Function] = {}


def known(
    *names: str, integers: Integers = "", is_view: bool = False, has_matrix: bool = False
) -> Callable[[Handler], Handler]:
    """Register the handler of PyTorch's functions, methods and operators of these names."""

    def register(handler: Handler) -> Handler:
        for name in names:
            assert name not in _FUNCTIONS, name
            _FUNCTIONS[name] = Function(handler, integers, is_view, has_matrix)
        return handler

    return register


def function_of(name: str) -> Function | None:
    """Return what is known of a function of PyTorch: what was registered, or a row of the table of operations."""
    found = _FUNCTIONS.get(name)
    row = operation_of(name) if found is None else None
    if row is None:
        return found
    return Function(partial(elementwise, row.name), row.integers, is_view=row.name == "stop")


def functions() -> list[str]:
    """Return the names of all functions of PyTorch that a step may call."""
    return sorted({*_FUNCTIONS, *(name for row in OPERATIONS.values() for name in row.functions)})


class Symbol:
    """A tensor without numbers.

    value: what it is in the graph.
    float_dtype: the type in which the loop computes; dtype: that of the tensor.
    bound: the tensor holds integers of this size at most; None where they may be any numbers.
    is_flat: a row of one feature whose feature axis was reduced away, shape [B].
    is_shared: another symbol would lie in the same memory.
    """

    call: ClassVar[Callable[..., Any]]  # what a function of PyTorch makes of symbols: see `torch_function`

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
        return Symbol.call("t", self)

    mT = T  # noqa: N815 - torch's name

    @property
    def data(self) -> Any:
        return Symbol.call("detach", self)

    def dim(self) -> int:
        return self.ndim

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not all(issubclass(t, Symbol | torch.Tensor) for t in types):
            return NotImplemented  # another tensor-like class knows better
        name = getattr(function, "__name__", str(function))
        owner = getattr(function, "__self__", None)
        if name == "__get__" and owner is not None:  # a tensor property: Tensor.shape, Tensor.T
            return getattr(args[0], owner.__name__)
        name = name.strip("_") if name.startswith("__") else name
        return Symbol.call(name, *args, function=function, **(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if function_of(name) is None and (self.rows or not callable(getattr(torch.Tensor, name, None))):
            error = unsupported(f"the tensor attribute {name!r}")
            raise MissingAttribute(str(error))
        return lambda *args, **kwargs: Symbol.call(name, self, *args, function=getattr(torch.Tensor, name), **kwargs)

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
        return Symbol.call("getitem", self, index)

    def __hash__(self) -> int:
        return id(self)


def value_of(thing: Any, like: Symbol) -> Value:
    """Return a symbol, number or tensor as a value of the graph of `like`."""
    builder = like.builder
    if isinstance(thing, Symbol):
        return thing.value
    if isinstance(thing, Number):
        return builder.constant(float(thing))
    if isinstance(thing, torch.Tensor):
        if thing.requires_grad:
            raise unsupported("a tensor with a gradient that is no parameter of the cell")
        return builder.make("input", data=("literal", thing), type=Type(tuple(thing.shape), dtype=like.float_dtype))
    raise unsupported(f"a {type(thing).__name__} here")


def elementwise(op: str, *things: Any) -> Symbol:
    """Return `op` of symbols, numbers and tensors, with PyTorch's broadcasting."""
    like = next(t for t in things if isinstance(t, Symbol))
    flat = any(isinstance(t, Symbol) and t.is_flat for t in things)
    if flat and not all((isinstance(t, Symbol) and t.is_flat) or isinstance(t, Number) for t in things):
        raise unsupported("mixing a row that was reduced with keepdim=False and one that was not")
    values = [value_of(t, like) for t in things]
    if any(v.type.rows for v in values):
        values = [like.builder.make("call", v, data=(_first_row,), type=Type(v.type.shape[1:], dtype=v.type.dtype))
                  if v.type.kind == "matrix" and v.type.shape[0] == 1 else v for v in values]  # fmt: skip
    return like.like(like.builder.make(op, *values), flat=flat)


def _first_row(matrix: torch.Tensor) -> torch.Tensor:
    return matrix[0]
