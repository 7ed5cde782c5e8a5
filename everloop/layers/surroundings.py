"""What a step depends on besides tensors: attributes, and the globals and class attributes that its code reads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from everloop.cell import Cell

Reading = tuple[Callable[[str, Any], Any], str]  # where a name is looked up, and the name

INTERNAL = frozenset(nn.Module().__dict__) - {"training"}
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# Code that reads nothing which a user changes.
_FIXED = sys.stdlib_module_names | {"torch", "everloop", "numpy"}
_CODE = (FunctionType, BuiltinFunctionType, MethodType, ModuleType, type)
_searches: dict[type, tuple[Any, _Search]] = {}


def picture(module: nn.Module) -> tuple[Any, ...]:
    """Return what a step may depend on besides tensors, hashable."""
    own, kind = module.__dict__, module.__class__
    return (
        kind,
        *((k, frozen(v)) for k, v in own.items() if k not in INTERNAL),
        *(frozen(get(name, None)) for get, name in readings(kind)),
        *((k, picture(m)) for k, m in own["_modules"].items() if m is not None),
        *(frozen(own[hooks]) for hooks in HOOKS if own[hooks]),
    )


def frozen(thing: Any, around: tuple[Any, ...] = ()) -> Any:
    """Return a hashable picture of what an attribute or a global holds; `around`: the objects it is held by."""
    kind = thing.__class__
    if kind in (int, str, bool, float, type(None)):
        return (kind, thing)
    if any(thing is other for other in around):
        return _Same(thing)
    around = (*around, thing)
    if isinstance(thing, dict):
        return tuple((k, frozen(v, around)) for k, v in thing.items())
    if isinstance(thing, list | tuple | set | frozenset):
        return (kind, *(frozen(v, around) for v in thing))
    if isinstance(thing, Tensor):
        return _Same(thing), 0 if thing.requires_grad or thing.is_inference() else thing._version
    if isinstance(thing, nn.Module):
        return picture(thing)
    if isinstance(thing, _CODE) or not hasattr(thing, "__dict__"):
        return _Same(thing), _bytes(thing)
    return _Same(thing), frozen(vars(thing), around)


def readings(kind: type) -> tuple[Reading, ...]:
    """Return what the code of this class of cells or modules reads: globals, class attributes, variables around it."""
    return tuple(_searched(kind).found.values())


def forget() -> None:
    """Look anew at what code reads: a function that was put in another's place may read something else."""
    _searches.clear()


def obstacle(module: nn.Module) -> str:
    """Return why no symbol can go through the code of a cell or stack as a tensor does; "" where one can."""
    values = [get(name, None) for m in module.modules() for get, name in readings(m.__class__)]
    values += [v for m in module.modules() for v in vars(m).values()]
    owners = [getattr(v, "__self__", v) for v in values]
    own = [v.__name__ for v in owners if isinstance(v, type) and issubclass(v, torch.autograd.Function)]
    if own:
        return f"only eager runs the backward of a torch.autograd.Function of your own, here {' and '.join(own)}"
    asks = [m.__class__.__name__ for m in module.modules() if _searched(m.__class__).asks_for_tensors]
    return f"the code of {asks[0]} asks whether something is a tensor, which a symbol is not" if asks else ""


def _searched(kind: type) -> _Search:
    function = getattr(kind, "step" if issubclass(kind, Cell) else "forward", None)
    known = _searches.get(kind)
    if known is None or known[0] is not function:
        search = _Search(kind)
        for base in kind.__mro__:
            search.follow(vars(base).get(function.__name__) if function else None, is_first=True)
        known = _searches[kind] = (function, search)
    return known[1]


class _Same:
    """Stands for one object, and keeps it, so that no other gets its place."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.thing is self.thing

    def __hash__(self) -> int:
        return id(self.thing)


def _bytes(thing: Any) -> bytes:
    """Return the numbers in an array that may be changed in place."""
    return thing.tobytes() if hasattr(thing, "tobytes") else b""


class _Search:
    """Follows the functions that code may call, by the names it mentions."""

    def __init__(self, owner: type) -> None:
        self.bases = [base for base in owner.__mro__ if not _is_fixed(base)]
        self.found: dict[tuple[int, str], Reading] = {}
        self.asks_for_tensors = False
        self._seen: set[CodeType] = set()

    def follow(self, function: Any, *, is_first: bool = False) -> None:
        """Note what a function reads. What the library's own code mentions may be a method that a user replaced."""
        function = getattr(function, "__func__", function)
        code = getattr(function, "__code__", None)
        if code is None or code in self._seen or (_is_fixed(function) and not is_first):
            return
        self._seen.add(code)
        names = set(_names(code))
        for base in self.bases:
            self._note(base, vars(base), names)
        if not _is_fixed(function):
            self.asks_for_tensors |= "is_tensor" in names or {"isinstance", "Tensor"} <= names
            self._note(function, function.__globals__, names)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            self._note(cell, _Free(name, cell), {name})

    def _note(self, owner: Any, space: Any, names: set[str]) -> None:
        """Note those of the names that `space`, the names of `owner`, has."""
        for name in sorted(n for n in names if n in space and (id(owner), n) not in self.found):
            value = space.get(name, None)
            if type(value).__module__ == "everloop.cell" or (isinstance(value, _CODE) and _is_fixed(value)):
                continue
            self.found[id(owner), name] = (space.get, name)
            if isinstance(value, ModuleType | type):
                self._note(value, vars(value), names)
            self.follow(value.fget if isinstance(value, property) else value)


class _Free:
    """A variable that a function closes over, looked up like a name in a dictionary."""

    def __init__(self, name: str, cell: Any) -> None:
        self.name, self.cell = name, cell

    def __contains__(self, name: object) -> bool:
        return name == self.name

    def get(self, name: str, default: Any) -> Any:
        try:
            return self.cell.cell_contents if name == self.name else default
        except ValueError:  # not bound yet
            return default


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that code and the functions inside it mention."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_fixed(thing: Any) -> bool:
    thing = getattr(thing, "__self__", None) or thing  # of a method, what it is bound to
    name = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None)
    return isinstance(name, str) and name != "__main__" and name.partition(".")[0] in _FIXED
