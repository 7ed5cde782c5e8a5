"""Has a step changed? The one guard of what a step depends on besides its tensors, and the cache of what is compiled.

That is attributes, and the globals and class attributes that the code reads. Each state of them is a `Version`; what is
compiled is kept by version. A hashable key of all of it is made at every call of a layer; single steps, where a key
would take too long, compare object by object (`Guard`).
"""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from operator import is_, itemgetter
from types import FunctionType, ModuleType
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from everloop.compiler.dependencies import CODE, changing, code_of, dependencies, forget, searched

VERSIONS = 8  # of one module, whose programs are kept
PROGRAMS = 512  # of all modules
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
INTERNAL = frozenset(nn.Module().__dict__) - {"training"}
PLAIN = (bool, int, float, str, type(None))
_HELD = ("_parameters", "_buffers", "_modules", *HOOKS)
_END = object()
T = TypeVar("T")


class Cache(Generic[T]):
    """A dictionary that keeps the last `size` entries used."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._entries: dict[Any, T] = {}
        self._lock = threading.Lock()

    def get(self, key: Any) -> T | None:
        """Return what is kept under a key."""
        with self._lock:
            found = self._entries.pop(key, None)
            if found is not None:
                self._entries[key] = found  # a dictionary is in the order of insertion
            return found

    def put(self, key: Any, value: T) -> T:
        """Keep a value; return it."""
        with self._lock:
            self._entries[key] = value
            if len(self._entries) > self.size:
                del self._entries[next(iter(self._entries))]
        return value

    def drop(self, version: Version) -> None:
        """Forget all whose key ends with a version."""
        with self._lock:
            for key in [key for key in self._entries if key[-1] is version]:
                del self._entries[key]

    def replace(self, old: T, new: T) -> None:
        """Put one value in the place of another."""
        with self._lock:
            self._entries.update({key: new for key, value in self._entries.items() if value is old})

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


class Version:
    """One state of what a step depends on besides its tensors. There is one object for equal states."""

    __slots__ = ("__weakref__", "key")

    def __init__(self, key: tuple[Any, ...]) -> None:
        self.key = key


programs: Cache[Any] = Cache(PROGRAMS)  # what is compiled, or why nothing is; the last part of a key is a Version
_versions: Cache[Version] = Cache(PROGRAMS)
# Weak, because a key may hold its module, as by a bound method: only the bounded caches keep anything.
_recent: WeakKeyDictionary[nn.Module, list[ref[Version]]] = WeakKeyDictionary()
_lock = threading.Lock()
warned: Cache[bool] = Cache(PROGRAMS)


def version(module: nn.Module, *, is_traced: bool = False) -> Version:
    """Return the version of a cell or stack as it is; `is_traced`: it just was, which tells what a step changes."""
    key = cache_key(module)
    found = _versions.get(key)
    if found is None and not is_traced:
        forget()
        key = cache_key(module)
        found = _versions.get(key)
    if found is None:
        found = _versions.put(key, Version(key))
        _remember(module, found)
    return found


def _remember(module: nn.Module, new: Version) -> None:
    """Let go of the oldest version of a module that has had too many."""
    with _lock:
        before = [found for weak in _recent.get(module, ()) if (found := weak()) is not None]
        _recent[module] = list(map(ref, [*before, new][-VERSIONS:]))
    if len(before) < VERSIONS:
        return
    programs.drop(before[0])
    names = sorted(set(_differences(before[-1].key, new.key))) or ["its class"]
    kind = module.__class__.__name__
    warn_once(
        f"{kind} was compiled for {VERSIONS} values of {' and '.join(names)}, and the oldest program is dropped"
        " for each new value: compiling costs far more than a call. What is a tensor (a buffer, a parameter or"
        " a feature of x) may change freely; make it one",
        (kind, *names),
    )


def warn_once(text: str, key: Any = None) -> None:
    """Warn, unless this was said before."""
    if not warned.get(key or text):
        warned.put(key or text, True)
        warnings.warn(text, stacklevel=4)


class Guard:
    """Whether all that a module holds and reads is, object by object, what it was when this was made."""

    def __init__(self, module: nn.Module) -> None:
        self._modules = list(module.modules())
        self._kinds = [m.__class__ for m in self._modules]
        own = [held for m in self._modules for held in (m.__dict__, *(m.__dict__[name] for name in _HELD))]
        self._attributes = [_attributes(held) for held in own if held]
        self._empty = [held for held in own if not held]
        of_modules = set(map(id, own))
        containers = [held for held in _containers(module) if id(held) not in of_modules]
        self._named = [h for h in containers if isinstance(h, dict) and all(type(name) is str for name in h)]
        self._names = list(chain.from_iterable(self._named))
        self._views = [view for held in containers for view in _views_of(held)]
        self._views += [[_END]] if self._views else []
        self._seen = list(chain.from_iterable(self._views))
        self._places = [place for kind in self._kinds for place in dependencies(kind)]
        self._read = [get(name, None) for get, name in self._places]
        self._code = list(map(code_of, self._kinds))
        by_name = {id(t) for t in chain(module.parameters(), module.buffers())}
        held = chain.from_iterable(values for _, _, _, values in self._attributes)
        things = list(_reached((*held, *self._seen, *self._read)))
        tensors = [t for t in things if isinstance(t, Tensor) and id(t) not in by_name]
        self._constants = [(t, t._version) for t in tensors if not t.is_inference()]
        arrays = (t for t in things if not isinstance(t, Tensor | type) and hasattr(t, "tobytes"))
        self._arrays = [(array, array.tobytes()) for array in arrays]

    def holds(self) -> bool:
        """Whether nothing has changed."""
        for attributes, count, get, values in self._attributes:
            try:
                if len(attributes) != count or not all(map(is_, get(attributes), values)):
                    return False
            except KeyError:
                return False
        return (
            not any(self._empty)
            and not (self._named and list(chain.from_iterable(self._named)) != self._names)
            and not (self._views and not all(map(is_, chain.from_iterable(self._views), self._seen)))
            and list(map(type, self._modules)) == self._kinds
            and all(map(is_, map(code_of, self._kinds), self._code))
            and not (self._places and not all(map(is_, [get(n, None) for get, n in self._places], self._read)))
            and not (self._constants and any(t._version != version for t, version in self._constants))
            and not (self._arrays and any(array.tobytes() != before for array, before in self._arrays))
        )


def _attributes(own: dict[str, Any]) -> tuple[dict[str, Any], int, Callable[..., Any], tuple[Any, ...]]:
    """Return a dict of a module, its length, and what gets all in it that a step may read, with what it gets now."""
    names = [name for name in own if name not in INTERNAL or name in _HELD]
    get = itemgetter(*names, names[0])  # of one name it would return no tuple
    return own, len(own), get, get(own)


def _views_of(held: Any) -> tuple[Any, ...]:
    """Return what is compared object by object; names are compared as strings."""
    if not isinstance(held, dict):
        return (held,)
    return (held.values(),) if all(type(name) is str for name in held) else (held, held.values())


def _reached(things: Any) -> Iterator[Any]:
    """Yield things, and what their tuples and frozen sets hold."""
    for thing in things:
        yield thing
        if isinstance(thing, tuple | frozenset):
            yield from _reached(thing)


def _containers(module: nn.Module) -> Iterator[Any]:
    """Yield everything that a module holds or reads and that may be changed in place, except tensors."""
    seen: set[int] = set()
    for part in module.modules():
        yield from _of_module(part, seen)
        for get, name in dependencies(part.__class__):
            yield from _inside(get(name, None), seen)


def _of_module(part: nn.Module, seen: set[int]) -> Iterator[Any]:
    if id(part) in seen:
        return
    seen.add(id(part))
    yield part.__dict__
    for name, thing in part.__dict__.items():
        if name not in INTERNAL or name in _HELD:
            yield from _inside(thing, seen)


def _inside(thing: Any, seen: set[int]) -> Iterator[Any]:
    if isinstance(thing, nn.Module):
        yield from _of_module(thing, seen)
        return
    if id(thing) in seen or isinstance(thing, Tensor | type | ModuleType | FunctionType):
        return
    seen.add(id(thing))
    held = thing if isinstance(thing, dict | list | set | deque) else getattr(thing, "__dict__", None)
    if held is not None:
        yield held
    parts = thing if isinstance(thing, tuple | frozenset) else held.values() if isinstance(held, dict) else held or ()
    for part in parts:
        yield from _inside(part, seen)


def cache_key(module: nn.Module, around: tuple[Any, ...] = ()) -> tuple[Any, ...]:
    """Return what a step may depend on besides tensors, hashable; `around`: the objects that hold the module."""
    own, kind, around = module.__dict__, module.__class__, (*around, module)
    passing = changing.get(kind, ())
    return (
        kind,
        *((k, _frozen(v, around)) for k, v in own.items() if k not in INTERNAL and k not in passing),
        *((name, _frozen(get(name, None), around)) for get, name in dependencies(kind) if name not in passing),
        *((k, cache_key(m, around)) for k, m in own["_modules"].items() if m is not None),
        *((hooks, _frozen(own[hooks], around)) for hooks in HOOKS if own[hooks]),
    )


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Yield the names of the attributes and globals in which two keys differ."""
    inside = {name: key for name, key in old[1:] if _is_of_module(key)}
    for name, value in set(new[1:]).difference(old[1:]):
        is_inside = _is_of_module(value) and name in inside
        yield from _differences(inside[name], value, f"{path}{name}.") if is_inside else [f"{path}{name}"]


def _is_of_module(key: Any) -> bool:
    return isinstance(key, tuple) and bool(key) and isinstance(key[0], type) and issubclass(key[0], nn.Module)


def _frozen(thing: Any, around: tuple[Any, ...] = ()) -> Any:
    """Return a hashable form of what an attribute or a global holds; `around`: the objects it is held by."""
    kind = thing.__class__
    if kind in PLAIN:
        return (kind, thing)
    if any(thing is other for other in around):
        return _Same(thing)
    around = (*around, thing)
    if isinstance(thing, dict):
        return tuple((k, _frozen(v, around)) for k, v in thing.items())
    if isinstance(thing, list | tuple | set | frozenset | deque):
        return (kind, *(_frozen(v, around) for v in thing))
    if isinstance(thing, Tensor):
        return _Same(thing), 0 if thing.requires_grad or thing.is_inference() else thing._version
    if isinstance(thing, nn.Module):
        return cache_key(thing, around[:-1])
    if isinstance(thing, CODE) or not hasattr(thing, "__dict__"):
        return _Same(thing), thing.tobytes() if hasattr(thing, "tobytes") else b""
    return _Same(thing), _frozen(vars(thing), around)


class _Same:
    """Stands for one object, and keeps it, so that no other gets its place."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.thing is self.thing

    def __hash__(self) -> int:
        return id(self.thing)


def unsupported_reason(module: nn.Module) -> str:
    """Return why no symbol can go through the code of a cell or stack as a tensor does; "" where one can."""
    for part in module.modules():
        if isinstance(part, BATCH_NORMS) and (part.training or not part.track_running_stats):
            kind = part.__class__.__name__
            return f"{kind} mixes the sequences of a batch in training; take layer normalisation, or call eval()"
    values = [get(name, None) for m in module.modules() for get, name in dependencies(m.__class__)]
    values += [v for m in module.modules() for v in vars(m).values()]
    owners = [getattr(v, "__self__", v) for v in values]
    own = [v.__name__ for v in owners if isinstance(v, type) and issubclass(v, torch.autograd.Function)]
    if own:
        return f"only eager runs the backward of a torch.autograd.Function of your own, here {' and '.join(own)}"
    asks = [m.__class__.__name__ for m in module.modules() if searched(m.__class__).asks_for_tensors]
    return f"the code of {asks[0]} checks isinstance(…, Tensor) or is_tensor, which a symbol is not" if asks else ""
