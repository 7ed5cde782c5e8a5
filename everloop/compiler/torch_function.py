"""What happens when a step calls a function of PyTorch on symbols: its handler, and the type PyTorch gives it."""

from __future__ import annotations

import inspect
import operator
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from itertools import count
from types import MethodType
from typing import Any

import torch

from everloop.compiler import (
    activations,
    aliases,
    assignments,
    composed,
    contractions,
    convolutions,
    dtypes,
    extremes,
    features,
    indexing,
    scans,
    shapes,
    surrogates,
)
from everloop.compiler.advice import advice
from everloop.compiler.chosen import Chosen, is_chosen_by, refusal
from everloop.compiler.functions import clone
from everloop.compiler.ir import Type
from everloop.compiler.locations import line_of_cell, unsupported
from everloop.compiler.opaque import HOLE, OpaqueCall, widening
from everloop.compiler.operations import Integers
from everloop.compiler.pytree import tree_leaves, tree_map
from everloop.compiler.symbol import ASSIGNING, BatchSize, Function, Symbol, function_of, is_known
from everloop.errors import UnsupportedError

FILES = (
    activations, assignments, composed, contractions, convolutions, extremes, features, indexing, scans, shapes,
    surrogates,
)  # fmt: skip
assert all(FILES), "they register"


def call(name: str, *args: Any, function: Any = None, **kwargs: Any) -> Any:
    """Return what the function `name` makes of symbols, tensors and numbers."""
    watching = sys.getprofile()
    if not isinstance(watching, MethodType) or name == "with_custom_gradient":  # whose functions are the step's
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
    if name == "getitem" and is_chosen_by(*args):
        return Chosen(*args)
    if name == "setitem_" and isinstance(args[2], Chosen):
        args = args[0], slice(None), args[2].within(*args[:2])
    elif any(isinstance(leaf, Chosen) for leaf in inside):
        raise refusal()
    function = function or _function_of(name)
    known = function_of(name)
    has_rows = any(isinstance(leaf, BatchSize) or (isinstance(leaf, Symbol) and leaf.rows) for leaf in inside)
    if known is None and name.endswith("_"):
        return _changed(name, *args, **kwargs)
    if has_rows:
        try:
            if known is None:
                raise unsupported(f"the operation {name!r}{advice(name)}")
            result = _handle(name, known, function, args, kwargs)
        except UnsupportedError as error:
            origin.builder.refused = error
            raise
        if known.is_view:
            aliases.note_views(name, known, function, args, kwargs, result)
        return result
    if known is not None:
        try:
            return _handle(name, known, function, args, kwargs)
        except UnsupportedError:
            pass  # of fixed values PyTorch itself computes the rest, before the loop
    if name == "with_custom_gradient":
        surrogates.check_additive(*args)
    return _opaque(origin, name, function, args, kwargs)


def _function_of(name: str) -> Any:
    """Return what PyTorch calls for an operator or an attribute of a tensor."""
    return getattr(operator, name, None) or getattr(operator, f"{name}_", None) or getattr(torch, name, None)


_SAME = ("dropout", "pos", "positive")  # give the tensor that they are given, where nothing is to do
_signature = lru_cache(512)(inspect.signature)


def _handle(name: str, known: Function, function: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    """Return what a handler makes of a call, with the shapes and types that PyTorch gives."""
    try:
        _signature(known.handler).bind(*args, **kwargs)
    except TypeError as error:
        raise unsupported(f"the operation {name!r} with these arguments ({error})") from error
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Symbol | torch.Tensor | int | float)]
    inside = [leaf for leaf in given if not isinstance(leaf, int | float)]
    origin = next(leaf for leaf in inside if isinstance(leaf, Symbol))
    kinds, loop = [leaf.dtype for leaf in inside], origin.float_dtype
    if dtypes.is_narrower(narrow := dtypes.computing(kinds), loop) and known.integers != "cast":
        args, kwargs = tree_map((args, kwargs), lambda n: dtypes.converted(n, narrow) if type(n) is float else n)
    try:
        result = known.handler(*args, **kwargs)
    except ValueError as error:
        raise unsupported(f"the operation {name!r}: {error}") from error
    if any(result is arg for arg in args) and not known.is_view and name not in _SAME:
        result = clone(result)
    is_plain = all(kind == loop for kind in kinds)
    if is_plain and known.has_matrix:
        return result
    sizes = {n for leaf in inside for n in leaf.shape if not isinstance(n, BatchSize)}
    batch = next(n for n in count(13) if n not in sizes)
    try:
        expected = dtypes.on_examples(function, *tree_map((args, kwargs), lambda leaf: _example(leaf, batch)))
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        raise unsupported(f"the operation {name!r}, which PyTorch refuses: {error}") from error
    bounds = [leaf.bound if isinstance(leaf, Symbol) else dtypes.bound_of(leaf) for leaf in given]
    size = dtypes.bound(known.integers, bounds, origin.value.width, kwargs.get("alpha", 1))
    # A number times what is at most one is exact, whatever the type.
    exact = [torch.bool if b is not None and b <= 1 else leaf.dtype
             for b, leaf in zip(bounds, given, strict=True) if not isinstance(leaf, int | float)]  # fmt: skip
    is_any = loop not in kinds and known.integers != "cast" and any(map(_is_unbounded_integer, inside))
    for symbol, tensor in zip(_several(result), _several(expected), strict=True):
        if isinstance(symbol, extremes.Places):
            continue
        if is_any and not tensor.dtype.is_floating_point:
            raise unsupported(f"the operation {name!r} of integers of any size")
        _settle(name, known.integers, symbol, tensor, size, exact, batch)
    return result


def _settle(
    name: str, integers: Integers, symbol: Symbol, like: Any, size: float | None, kinds: list[torch.dtype], batch: int
) -> None:
    """Give the result of a call the type that PyTorch gives it."""
    shape = tuple(batch if isinstance(n, BatchSize) else n for n in symbol.shape)
    if not isinstance(like, torch.Tensor) or like.shape != shape or not like.is_cpu:
        raise unsupported(f"the operation {name!r} here, which gives {_described(like)}, not {list(shape)}")
    value, builder = symbol.value, symbol.builder
    if integers == "fill":
        symbol.value = builder.constant(dtypes.converted(value.data[0], like.dtype), value.type)
        size = dtypes.bound_of(symbol.value.number)
    if integers == "cast" and like.dtype == torch.bool and not symbol.is_mask:
        symbol.value = builder.sub(1.0, builder.equal(value, 0.0))
    if integers in ("product", "negation") and not (like.dtype.is_floating_point or like.dtype == torch.bool):
        symbol.value = builder.where(builder.equal(value, 0.0), 0.0, value)
    if found := dtypes.unsupported_reason(integers, like.dtype, symbol.float_dtype, size, kinds):
        raise unsupported(f"the operation {name!r} with {found}")
    symbol.dtype, symbol.bound = like.dtype, 1.0 if like.dtype == torch.bool else size


def _is_unbounded_integer(thing: Any) -> bool:
    return isinstance(thing, Symbol) and thing.bound is None and not thing.dtype.is_floating_point


def _several(result: Any) -> Any:
    return result if isinstance(result, tuple | list) else (result,)


def _described(thing: Any) -> str:
    if isinstance(thing, torch.Tensor):
        return f"{list(thing.shape)} on {thing.device.type}"
    return str(thing.__class__.__name__)


def _example(leaf: Any, batch: int) -> Any:
    if isinstance(leaf, BatchSize):
        return batch
    if isinstance(leaf, torch.Tensor):
        return leaf.detach()
    if not isinstance(leaf, Symbol):
        return leaf
    return dtypes.example_input(leaf.dtype, tuple([batch if isinstance(n, BatchSize) else n for n in leaf.shape]))


_RANDOM = re.compile("rand|bernoulli|dropout|multinomial|poisson|exponential|uniform|gumbel|normal$")


def _opaque(origin: Symbol, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if function is None or _RANDOM.search(name):
        raise unsupported(f"the operation {name!r} on parameters or constants alone")
    found = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Symbol)]
    loop = origin.float_dtype
    if any(map(_is_unbounded_integer, found)):
        raise unsupported(f"the operation {name!r} of integers of any size")
    template = tree_map((args, kwargs), lambda leaf: HOLE if isinstance(leaf, Symbol) else leaf)
    kinds = tuple(None if s.dtype == loop else s.dtype for s in found)
    opaque = OpaqueCall(name, function, template, kinds)
    example = opaque(*(torch.empty(s.value.type.shape, dtype=loop, device="meta") for s in found))

    def one(call: OpaqueCall, result: Any) -> Symbol:
        kind = result.dtype if isinstance(result, torch.Tensor) else None
        if kind is None or not dtypes.is_held(kind, loop):
            raise unsupported(
                f"the operation {name!r} on parameters or constants alone, which gives {kind or type(result).__name__}"
            )
        value = origin.builder.make(
            "call", *(s.value for s in found), data=(call,), type=Type(tuple(result.shape), dtype=loop)
        )
        if kind != loop:
            value = origin.builder.make("call", value, data=(widening(loop),), type=value.type)
        return Symbol(value, origin.builder, loop, kind)

    if isinstance(example, tuple | list):
        return tuple(one(OpaqueCall(name, function, template, kinds, k), part) for k, part in enumerate(example))
    return one(opaque, example)


def _operator(name: str, *, swapped: bool = False) -> Callable[..., Any]:
    def apply(self: Symbol, *others: Any) -> Any:
        if not all(isinstance(o, Symbol | torch.Tensor | float | int) for o in others):
            return NotImplemented
        return call(name, *others, self) if swapped else call(name, self, *others)

    return apply


def _in_place(name: str) -> Callable[..., Any]:
    return lambda self, other: call(f"{name}_", self, other)


def _filled(changed: Symbol, value: Any) -> Any:
    return call("mul", call("ones_like", changed), value)


def _copied(changed: Symbol, src: Any, non_blocking: bool = False) -> Any:
    return _filled(changed, src)


_ASSIGNING: dict[str, Callable[..., Any]] = {
    "copy_": _copied,
    "fill_": _filled,
    "zero_": lambda changed: call("zeros_like", changed),
}
assert tuple(_ASSIGNING) == ASSIGNING


def _with_part(changed: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    """What an assignment to a part makes of a tensor."""
    changed = changed.clone()
    changed[index] = value
    return changed


def _changed(name: str, changed: Any, *others: Any, **options: Any) -> Any:
    """Return a symbol after a method that changes it in place, such as add_."""
    plain = name.removesuffix("_")
    what = "an assignment to a part of" if plain == "setitem" else f"{plain} in place on"
    if not is_known(name):
        raise unsupported(f"the operation {name!r} in place{advice(name)}")
    if not isinstance(changed, Symbol):
        raise unsupported(f"{what} a tensor without the batch; make it from x, as x.new_zeros(x.shape[0], n)")
    aliases.check_changeable(changed, what)
    place = aliases.place_of(changed)
    if plain == "setitem":
        place = assignments.place(place, others[0]) or place
    if aliases.check_apart(place, others, what) and plain == "setitem":
        return changed  # the end of u[:, :3] += v, which has happened
    if name in ASSIGNING:
        try:
            _signature(_ASSIGNING[name]).bind(changed, *others, **options)
        except TypeError as error:
            raise unsupported(f"the operation {name!r} with these arguments ({error})") from error
        result = _ASSIGNING[name](changed, *others, **options)
    else:
        function = _with_part if plain == "setitem" else getattr(torch.Tensor, plain, None)
        result = call(plain, changed, *others, function=function, **options)
    if not result.rows or (result.axes, result.dtype) != (changed.axes, changed.dtype):
        raise unsupported(f"{what} a value with a result of another shape or dtype")
    aliases.change(changed, result.value, result.bound)
    return changed


for _name in ("add", "sub", "mul", "truediv", "pow", "mod", "floordiv", "and", "or", "xor"):
    setattr(Symbol, f"__i{_name}__", _in_place(_name))
for _name in ("add", "sub", "mul", "truediv", "pow", "matmul", "and", "or", "xor", "mod", "floordiv"):
    setattr(Symbol, f"__{_name}__", _operator(_name))
    setattr(Symbol, f"__r{_name}__", _operator(_name, swapped=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert"):
    setattr(Symbol, f"__{_name}__", _operator(_name))
Symbol.call = staticmethod(call)
