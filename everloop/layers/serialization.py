"""A cell as text: how it is kept in a saved graph and made again in another process.

The text names classes and holds plain data, no code. A class is looked up among the modules that are loaded; to
read it nothing but this library is imported.
"""

from __future__ import annotations

import sys
from functools import reduce
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

from torch import nn

from everloop.cell import Cell
from everloop.errors import UnsupportedError
from everloop.layers.guards import HOOKS, INTERNAL, PLAIN

_GROUPS: dict[str, Any] = {"tuple": tuple, "list": list, "dict": dict}


def write(cell: Cell) -> Any:
    """Return the cell without its tensors as data that JSON keeps.

    Raises:
        UnsupportedError: it holds something that is no plain data.
    """
    return _module(cell, "")


def read(text: Any) -> Cell:
    """Return the cell that `write` made this of, without its tensors.

    Raises:
        UnsupportedError: the module of its class is not loaded, or has no such class.
    """
    return cast(Cell, _made(text))


def _module(module: nn.Module, path: str) -> dict[str, Any]:
    kind = module.__class__
    name = f"{kind.__module__}:{kind.__qualname__}"
    if reason := getattr(module, "not_exported", ""):
        raise UnsupportedError(reason)
    if _found(name) is not kind:
        raise _unwritable(f"{name} cannot be imported by this name in another process", "define it in a module")
    if any(getattr(module, hooks) for hooks in HOOKS):
        raise _unwritable(f"{name} has hooks", "remove them")
    own = {k: _written(v, f"{name}.{k}") for k, v in vars(module).items() if k not in INTERNAL}
    inside = {k: _module(m, f"{path}{k}.") for k, m in module._modules.items() if m is not None}
    return {"class": name, "own": own, "inside": inside}


def _written(value: Any, path: str) -> Any:
    if type(value) in PLAIN:
        return value
    for name, kind in _GROUPS.items():
        if type(value) is kind:
            parts = value.items() if kind is dict else value
            return {name: [_written(v, path) for v in parts]}
    raise _unwritable(f"{path} is {type(value).__name__}", "hold numbers, strings, tuples, lists, dicts or modules")


def _unwritable(what: str, remedy: str) -> UnsupportedError:
    return UnsupportedError(f"this cell cannot be exported: {what}; {remedy}")


def _made(text: dict[str, Any]) -> nn.Module:
    kind = _found(text["class"])
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        module, _, name = text["class"].partition(":")
        raise UnsupportedError(
            f"this graph was exported with {name} of the module {module}, which is not there; "
            f"import {module} before the graph runs"
        )
    module = object.__new__(kind)
    nn.Module.__init__(module)
    vars(module).update({k: _read(v) for k, v in text["own"].items()})
    for name, inside in text["inside"].items():
        module._modules[name] = _made(inside)
    return module


def _read(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((name, parts),) = value.items()
    return _GROUPS[name](_read(v) for v in parts)


def _found(name: str) -> Any:
    """Return what `module:name` is among what is loaded, None if it is not there. Only this library is imported."""
    module, _, path = name.partition(":")
    if module.startswith("everloop.") and find_spec(module) is not None:
        import_module(module)
    return reduce(lambda thing, part: getattr(thing, part, None), path.split("."), sys.modules.get(module))
