"""What a step computes with when the compiler calls it: symbols that look like tensors and record what happens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch

from everloop.compiler.advice import advice
from everloop.compiler.ir import Builder, Type, Value
from everloop.compiler.locations import unsupported
from everloop.compiler.operations import OPERATIONS, Integers, operation_of
from everloop.compiler.view import View, contiguous, fitted
from everloop.errors import UnsupportedError

Number = float | int | bool
Handler = TypeVar("Handler", bound=Callable[..., Any])


class MissingAttribute(UnsupportedError, AttributeError):  # noqa: N818 - it is an UnsupportedError
    """A tensor attribute that symbols do not have."""


class BatchSize(torch.SymInt):
    """The number of sequences, which the compiler does not know. PyTorch's functions take it where they take a size."""

    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        return "B"

    def _refuse(self, *_: Any) -> Any:
        raise unsupported("arithmetic or a comparison with the batch size")

    __rtruediv__ = __rfloordiv__ = __pow__ = __rpow__ = __mod__ = __neg__ = _refuse
    __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = __truediv__ = __floordiv__ = _refuse
    __int__ = __index__ = __float__ = __lt__ = __gt__ = __le__ = __ge__ = __bool__ = _refuse

    __abs__ = __pos__ = __round__ = __trunc__ = __ceil__ = __floor__ = __divmod__ = __rmod__ = _refuse
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __lshift__ = __rshift__ = _refuse

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BatchSize) or bool(self._refuse())

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return id(BatchSize)


BATCH_SIZE = BatchSize()


@dataclass(frozen=True)
class Function:
    """What the compiler knows of a function of PyTorch.

    handler: what it makes of symbols, tensors and numbers.
    integers: how integers come out of it, as in the table of operations.
    is_view: whether its result may lie in the memory of an argument, so that a change of one is a change of both.
    has_matrix: PyTorch checks and promotes nothing in it that `infer` does not, as long as all types are the same.
    """

    handler: Callable[..., Any]
    integers: Integers = ""
    is_view: bool = False
    has_matrix: bool = False


_FUNCTIONS: dict[str, Function] = {}


ASSIGNING = ("copy_", "fill_", "zero_")  # methods that change a tensor in place into something else altogether


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


def is_known(method: str) -> bool:
    """Whether a step may call this method of a tensor, which may change it in place."""
    return method in ASSIGNING or function_of(method.removesuffix("_")) is not None


def functions() -> list[str]:
    """Return the names of all functions of PyTorch that a step may call."""
    return sorted({*_FUNCTIONS, *(name for row in OPERATIONS.values() for name in row.functions)})


class Symbol:
    """A tensor without numbers.

    value: what it is in the graph.
    float_dtype: the type in which the loop computes; dtype: that of the tensor.
    bound: the tensor holds integers of this size at most; None where they may be any numbers.
    axes: the sizes of the axes behind the batch that the features of a row lie in, none for shape [B].
    is_given: it would lie in memory that the step is given; origin, place, refusal: where else it lies, see `aliases`.
    """

    call: ClassVar[Callable[..., Any]]  # what a function of PyTorch makes of symbols: see `torch_function`

    def __init__(
        self,
        value: Value,
        builder: Builder,
        loop: torch.dtype,
        dtype: torch.dtype | None = None,
        *,
        axes: tuple[int, ...] | None = None,
    ):
        self.value = value
        self.builder = builder
        self.float_dtype = loop
        self.dtype = dtype or loop
        self.bound = 1.0 if dtype == torch.bool else None
        self.axes = value.type.shape if axes is None else axes
        self.is_given, self.refusal = False, ""
        self.origin: Any = None
        self.place: Any = None

    def like(self, value: Value, axes: tuple[int, ...] | None = None) -> Symbol:
        """Return another symbol of the same trace."""
        return Symbol(value, self.builder, self.float_dtype, axes=axes)

    @property
    def is_mask(self) -> bool:
        """Whether the tensor would be boolean."""
        return self.dtype == torch.bool

    @property
    def rows(self) -> bool:
        return self.value.type.rows

    @property
    def shape(self) -> Any:
        return (BATCH_SIZE, *self.axes) if self.rows else torch.Size(self.value.type.shape)

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

    @property
    def mT(self) -> Any:
        return Symbol.call("transpose", self, -1, -2)

    @property
    def H(self) -> Any:
        return self.T  # of real numbers

    @property
    def mH(self) -> Any:
        return self.mT

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
        if not is_known(name) and (self.rows or not callable(getattr(torch.Tensor, name, None))):
            error = unsupported(f"the tensor attribute {name!r}{advice(name)}")
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
        Symbol.call("setitem_", self, index, value)

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
            raise unsupported("a tensor that requires grad and is not a parameter of the cell")
        return builder.make("input", data=("literal", thing), type=Type(tuple(thing.shape), dtype=like.float_dtype))
    raise unsupported(f"a {type(thing).__name__} here")


def symbol_of(thing: Any, like: Symbol) -> Symbol:
    """Return a symbol, number or tensor as a symbol of the trace of `like`."""
    return thing if isinstance(thing, Symbol) else like.like(value_of(thing, like))


def elementwise(op: str, *things: Any) -> Symbol:
    """Return `op` of symbols, numbers and tensors, with PyTorch's broadcasting."""
    like = next(t for t in things if isinstance(t, Symbol))
    symbols = [symbol_of(t, like) for t in things]
    ranks = {len(s.axes) for s in symbols if s.rows}
    if not ranks:
        return like.like(like.builder.make(op, *(s.value for s in symbols)))
    if len(ranks) > 1:
        raise unsupported(
            f"an operation on rows with {' and '.join(map(str, sorted(ranks)))} axes of features, which PyTorch aligns "
            "with the batch; give both as many, by unsqueeze or keepdim=True"
        )
    shapes = [features(s, *ranks) for s in symbols]
    axes = tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
    values = [spread_to(s, shape, axes).value for s, shape in zip(symbols, shapes, strict=True)]
    return like.like(like.builder.make(op, *values), axes)


def features(a: Symbol, rank: int) -> tuple[int, ...]:
    """Return the axes of a value beside rows with `rank` axes of features."""
    if a.rows:
        return a.axes
    shape = tuple(a.value.type.shape)
    if len(shape) == rank + 1 and shape[0] == 1:
        return shape[1:]
    if len(shape) > rank:
        raise unsupported(f"a {a.value.type} beside rows with {rank} axes of features")
    return shape


def spread_to(a: Symbol, shape: tuple[int, ...], axes: tuple[int, ...]) -> Symbol:
    """Return a row of these feature axes, or a vector of as many numbers; numbers that all share stay as they are."""
    if a.rows and a.value.width == 1:  # a number of a row meets any width
        return a
    if a.rows and shape != axes:
        strides = contiguous(shape)
        away = len(axes) - len(shape)
        steps = [0 if k < away or shape[k - away] == 1 else strides[k - away] for k in range(len(axes))]
        return viewed(a, axes, View(tuple(zip(axes, steps, strict=True))))
    number = a.value.type.shape in ((), (1,))
    if a.rows or number or (shape == axes and a.value.type.shape == axes and len(axes) == 1):
        return a
    wanted = axes if math.prod(shape) > 1 else (1,) * len(axes)
    kind = Type((math.prod(wanted),), dtype=a.value.type.dtype)
    return a.like(a.builder.make("call", a.value, data=(Spread(shape, wanted),), type=kind))


def viewed(a: Symbol, axes: tuple[int, ...], view: View) -> Symbol:
    """Return a row of these feature axes whose features are those that a view takes of `a`."""
    width = math.prod(axes)
    if a.value.width == 1:
        return a.like(a.value, axes) if width == 1 else a.like(spread(a, width), axes)
    if width == 0:
        return a.like(a.builder.slice(a.value, 0, 0), axes)
    return a.like(a.builder.view(a.value, fitted(view.index) or view), axes)


def spread(a: Symbol, width: int) -> Value:
    """Return the value of a row, each of its numbers for all features where it has one."""
    if a.value.width == width:
        return a.value
    return a.builder.make("add", a.value, a.builder.constant(0.0, Type((width,), rows=True)))


@dataclass(frozen=True)
class Spread:
    """Expands a fixed tensor of one shape to another, and lays its numbers side by side."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.reshape(self.shape).expand(self.axes).reshape(-1)
