"""What the code of a step reads besides its arguments: globals, class attributes, variables around a function."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch

from everloop.cell import Cell
from everloop.compiler.bounded import BoundedDict
from everloop.own_gradient import CustomGradient

Dependency = tuple[Callable[[str, Any], Any], str]  # where a name is looked up, and the name

# Code that reads nothing which a user changes.
_FIXED = sys.stdlib_module_names | {"torch", "everloop", "numpy"}
CODE = (FunctionType, BuiltinFunctionType, MethodType, ModuleType, type)
CLASSES = 512  # of modules, of which is known what their code reads
_searches: BoundedDict[type, tuple[Any, Search]] = BoundedDict(CLASSES)
# Names of what steps were seen to change, and are left to eager for: no call needs to be told from another by it.
changing: BoundedDict[type, frozenset[str]] = BoundedDict(CLASSES)


def dependencies(kind: type) -> tuple[Dependency, ...]:
    """Return what the code of this class of cells or modules reads: globals, class attributes, variables around it."""
    return tuple(searched(kind).found.values())


def forget() -> None:
    """Look anew at what code reads: a function that was put in another's place may read something else."""
    _searches.clear()


def code_of(kind: type) -> Any:
    """Return the function that a module of this class runs."""
    return getattr(kind, "step" if issubclass(kind, Cell) else "forward", None)


def searched(kind: type) -> Search:
    function = code_of(kind)
    known = _searches.get(kind)
    if known is None or known[0] is not function:
        search = Search(kind)
        for base in kind.__mro__:
            search.follow(vars(base).get(function.__name__) if function else None, is_first=True)
        known = _searches[kind] = (function, search)
    return known[1]


class Search:
    """Follows the functions that code may call, by the names it mentions."""

    def __init__(self, owner: type) -> None:
        self.bases = [base for base in owner.__mro__ if not _is_fixed(base)]
        self.found: dict[tuple[int, str], Dependency] = {}
        self.places: list[tuple[Any, Any, str]] = []  # (whose name it is, its names and what they stand for, name)
        self.names: set[str] = set()
        self.asks_for_tensors = False
        self._seen: set[CodeType] = set()

    def follow(self, function: Any, *, is_first: bool = False) -> None:
        """Note what a function reads. What the library's own code mentions may be a method that a user replaced."""
        if isinstance(function, CustomGradient):
            self.follow(function.forward)
            self.follow(function.backward)
        function = getattr(function, "func", function) if isinstance(function, partial) else function
        function = getattr(function, "__func__", function)
        code = getattr(function, "__code__", None)
        if code is None or code in self._seen or (_is_fixed(function) and not is_first):
            return
        self._seen.add(code)
        names = set(_names(code))
        for base in self.bases:
            self._note(base, vars(base), names)
        if not _is_fixed(function):
            self.names |= names
            self.found[0, "dtype"] = (_default_dtype, "dtype")
            self.asks_for_tensors |= "is_tensor" in names or {"isinstance", "Tensor"} <= names
            self._note(function, function.__globals__, names)
            self._note(function, vars(function), names)
            for name in ("__defaults__", "__kwdefaults__"):
                if getattr(function, name):
                    self._note(function, _Free(name, function), {name})
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            self._note(cell, _Free(name, cell), {name})

    def _note(self, owner: Any, space: Any, names: set[str]) -> None:
        """Note those of the names that `space`, the names of `owner`, has."""
        for name in sorted(n for n in names if n in space and (id(owner), n) not in self.found):
            value = space.get(name, None)
            if type(value).__module__ == "everloop.declaration" or (isinstance(value, CODE) and _is_fixed(value)):
                continue
            self.found[id(owner), name] = (space.get, name)
            self.places.append((owner, space, name))
            if isinstance(value, ModuleType | type):
                self._note(value, vars(value), names)
            elif not isinstance(value, CODE) and not _is_fixed(type(value)):
                self._note(type(value), vars(type(value)), names | {"__call__", "forward"})
            self.follow(value.fget if isinstance(value, property) else value)


def _default_dtype(name: str, default: Any) -> torch.dtype:
    """Look up the type of new tensors like a name in a dictionary."""
    return torch.get_default_dtype()


class _Free:
    """A variable that a function closes over or its defaults, looked up like a name in a dictionary."""

    def __init__(self, name: str, owner: Any) -> None:
        self.name, self.owner = name, owner

    def __contains__(self, name: object) -> bool:
        return name == self.name

    def get(self, name: str, default: Any) -> Any:
        try:
            attribute = "cell_contents" if isinstance(self.owner, CellType) else name
            return getattr(self.owner, attribute) if name == self.name else default
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
