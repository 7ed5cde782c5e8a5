"""What a step does besides computing: changes outside itself, and questions whose answer is not the same at every step.

A step is called on symbols once, and then never again. What it changed meanwhile is put back.
"""

from __future__ import annotations

import gc
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import CellType, FrameType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from everloop.compiler.dependencies import CODE, changing, searched
from everloop.compiler.locations import is_inside, line_of_cell
from everloop.errors import UnsupportedError
from everloop.step import step_results

_INTERNAL = frozenset(nn.Module().__dict__) - {"training"}
_LIBRARY = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})
_LATE = ("site-packages", "dist-packages")  # in these folders, but not of them
# Functions of C by their module, and of Python: each gives or does something else whenever it is called.
_ASKING: dict[str, frozenset[str] | None] = {
    "builtins": frozenset({"print", "open", "input"}),
    "time": None, "posix": None, "nt": None, "io": None, "_io": None, "_warnings": frozenset({"warn", "warn_explicit"}),
    "datetime": frozenset({"now", "today", "utcnow"}), "_contextvars": None, "contextvars": None,
}  # fmt: skip
_HARMLESS = frozenset({"fspath", "text_encoding", "_path_normpath"})
_OF_PYTHON = frozenset({"os", "logging", "warnings", "uuid", "secrets", "datetime"})
_OF_PYTORCH = frozenset(
    {"is_grad_enabled", "is_inference_mode_enabled", "is_autocast_enabled", "is_anomaly_enabled", "get_num_threads",
     "get_rng_state", "initial_seed", "seed", "current_device", "get_autocast_dtype"}
)  # fmt: skip
_Top = tuple[type, str]  # a class of modules, and a name that its code reads or its instances have
_SIMPLE = (bool, int, float, str)


@dataclass(frozen=True)
class _Place:
    """Something that a step may change: whose it is, how to say it, whether it is the same, and what makes it so."""

    top: _Top
    name: str
    is_same: Callable[[], bool]
    restore: Callable[[], None]


class Watch:
    """While a step runs on symbols, sees what it changes and asks; `refused`: the first of that."""

    def __init__(self, cell: nn.Module) -> None:
        self.name = cell.__class__.__name__
        self.refused: Exception | None = None
        self.places: list[_Place] = []
        self.memory: dict[int, tuple[str, _Top]] = {}  # names of tensors, by the address of their memory
        self._seen: set[int] = set()
        self._top: _Top = (cell.__class__, "")
        self._changing: list[_Top] = []
        self._kinds = {module.__class__ for module in cell.modules()}
        for module in cell.modules():
            search = searched(module.__class__)
            for name, thing in module.__dict__.items():
                if name not in _INTERNAL:
                    self._top = (module.__class__, name)
                    self._note(thing, f"self.{name}", name in search.names)
            buffers = module._buffers
            self.places += [_named(self._top, module, buffers, name, buffer) for name, buffer in buffers.items()]
            for owner, space, name in search.places:
                before = space.get(name, None)
                self._top = (module.__class__, name)
                place = _named(self._top, owner, space, name, before)
                self.places.append(place)
                self._note(before, place.name, is_read=True)

    def __enter__(self) -> Watch:
        self._collects = gc.isenabled()
        gc.disable()  # what runs when garbage is collected is not the step's doing
        self._before = sys.getprofile()
        if self._before is None:
            sys.setprofile(self._event)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._before is None:
            sys.setprofile(None)
        if self._collects:
            gc.enable()
        changed = [place for place in self.places if not place.is_same()]
        for place in changed:
            place.restore()
            self._changing.append(place.top)
        if changed:
            self.refused = self.refused or self.error(f"changes {changed[0].name}, which must happen at every step")

    def close(self) -> None:
        """Note which names a step changes, once it has run; raise what was refused."""
        for kind in self._kinds:
            if kind in changing:
                changing[kind] = frozenset()
        if self.refused is not None:
            for kind, name in self._changing:
                changing[kind] = changing.get(kind, frozenset()) | {name}
            raise self.refused

    def error(self, what: str, line: str = "") -> Exception:
        line = line or line_of_cell()
        return UnsupportedError(f"{self.name}.step {what}{line and f' ({line})'}")

    def compare(self, cell: nn.Module, twin: nn.Module, bound: Any) -> None:
        """Note what a step has set on the twin of a cell."""
        for path, part in twin.named_modules():
            own = cell.get_submodule(path).__dict__
            for name, thing in part.__dict__.items():
                dotted = f"{path}.{name}" if path else name
                is_cache = isinstance(getattr(part.__class__, name, None), cached_property)
                if name in _INTERNAL or dotted in bound or is_cache:
                    continue
                if not _equal(own.get(name, self), thing):
                    self._changing.append((part.__class__, name))
                    self.refused = self.refused or self.error(f"sets self.{dotted}, which must happen at every step")

    def change(self, tensor: Any) -> None:
        """Refuse a change in place of a tensor that the step has not made itself."""
        if isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.device.type != "meta":
            found = self.memory.get(tensor.untyped_storage().data_ptr())
            if found:
                self._changing.append(found[1])
                raise self._refuse(f"changes {found[0]}, which must happen at every step")

    def _refuse(self, what: str, line: str = "") -> Exception:
        self.refused = self.refused or self.error(what, line)
        return self.refused

    def _note(self, thing: Any, name: str, is_read: bool) -> None:
        if id(thing) in self._seen or isinstance(thing, CODE) or thing.__class__ in _SIMPLE:
            return
        self._seen.add(id(thing))
        if isinstance(thing, Tensor):
            if thing.layout == torch.strided:
                self.memory[thing.untyped_storage().data_ptr()] = (name, self._top)
            return
        if hasattr(thing, "__next__"):
            if is_read:
                self._refuse(f"reads {name}, an iterator, which gives something else at every step")
            return
        if hasattr(thing, "tobytes") and hasattr(thing, "copy"):
            self.places.append(_of_array(self._top, thing, name))
            return
        held = thing if isinstance(thing, list | dict | set | deque) else getattr(thing, "__dict__", None)
        if held is not None:
            self.places.append(_of_container(self._top, held, name))
        for key, part in _parts(thing if isinstance(thing, tuple) else held):
            self._note(part, f"{name}{key}", is_read)

    def _event(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call":
            if is_inside(frame.f_code.co_filename):
                return
            owner = getattr(arg, "__self__", None)
            kind = owner if isinstance(owner, type) else owner.__class__
            module = arg.__module__ or ("" if isinstance(owner, ModuleType) else kind.__module__)
            asks = _asks(arg, module)
        elif event == "call":
            module = frame.f_globals.get("__name__", "").partition(".")[0]
            asks = module in _OF_PYTHON or (module == "torch" and frame.f_code.co_name in _OF_PYTORCH)
            arg, frame = frame.f_code, frame.f_back or frame
        else:
            return
        users = _users(frame) if asks else None
        if users is not None:
            name = getattr(arg, "__name__", None) or arg.co_name
            line = f"{users.f_code.co_filename}:{users.f_lineno}"
            raise self._refuse(f"calls {name}() of {module}, whose result differs from step to step", line)


def _asks(function: Any, module: str) -> bool:
    """Whether a function of C gives or does something else whenever it is called."""
    name, names = function.__name__, _ASKING.get(module, frozenset())
    if names is None:
        return name not in _HARMLESS
    return name in names or (name in _OF_PYTORCH and _is_pytorch(function, module))


def _is_pytorch(function: Any, module: str) -> bool:
    return module.startswith("torch") or getattr(function.__self__, "__name__", "").startswith("torch")


def _users(frame: FrameType | None) -> FrameType | None:
    """Return the code of a user that calls, perhaps by way of Python's own library; None where there is none.

    What a module does while it is imported is done once, and not at every step.
    """
    while frame is not None and _is_library(frame.f_code.co_filename):
        frame = frame.f_back
    return None if frame is None or is_inside(frame.f_code.co_filename) or _is_imported(frame) else frame


def _is_imported(frame: FrameType | None) -> bool:
    """Whether code runs because the step, which may itself be called by an import, imports a module."""
    while frame is not None and frame.f_code is not step_results.__code__:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _is_library(file: str) -> bool:
    return file.startswith((*_LIBRARY, "<frozen")) and not any(late in file for late in _LATE)


def _equal(before: Any, now: Any) -> bool:
    return before is now or (before.__class__ is now.__class__ and before.__class__ in _SIMPLE and before == now)


def _named(top: _Top, owner: Any, space: Any, name: str, before: Any) -> _Place:
    """A global, an attribute of a class or a variable around a function."""

    def restore() -> None:
        if isinstance(owner, type):
            setattr(owner, name, before)
        elif isinstance(owner, CellType):
            owner.cell_contents = before
        else:
            space[name] = before

    is_inner = isinstance(owner, FunctionType) and space is not owner.__globals__
    shown = f"{owner.__name__}.{name}" if is_inner or isinstance(owner, type) else name
    return _Place(top, shown, lambda: _equal(before, space.get(name, None)), restore)


def _of_array(top: _Top, array: Any, name: str) -> _Place:
    before = array.copy()
    return _Place(top, name, lambda: array.tobytes() == before.tobytes(), lambda: array.__setitem__(..., before))


def _of_container(top: _Top, held: Any, name: str) -> _Place:
    before = held.copy()

    def is_same() -> bool:
        if isinstance(held, set):
            return bool(held == before)
        old, new = dict(_parts(before)), dict(_parts(held))
        return old.keys() == new.keys() and all(_equal(old[key], new[key]) for key in old)

    def restore() -> None:
        held.clear()
        (held.extend if isinstance(held, list | deque) else held.update)(before)

    return _Place(top, name, is_same, restore)


def _parts(held: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (how to say it, what) of what a container holds."""
    if isinstance(held, dict):
        yield from ((f"[{key!r}]", part) for key, part in held.items())
    else:
        yield from ((f"[{k}]", part) for k, part in enumerate(held or ()))
