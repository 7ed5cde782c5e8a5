"""Has a step changed? The one guard of what a step depends on besides its tensors, and the cache of what is compiled.

That is attributes, and the globals and class attributes that the code reads. Each state of them is a `Version`; what is
compiled is kept by version. A module's last version is found again by comparing identities, which is quick; where one
has changed, a hashable key of everything tells whether the change matters.
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

import torch
from torch import Tensor, nn

from everloop.compiler.dependencies import CODE, changing, dependencies, forget, searched

VERSIONS = 8  # of one module, whose programs are kept
PROGRAMS = 512  # of all modules
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_OURS = "_everloop_versions"
INTERNAL = (frozenset(nn.Module().__dict__) | {_OURS}) - {"training"}
PLAIN = (bool, int, float, str, type(None))
_HELD = ("_modules", *HOOKS)
_END = object()
T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


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

    __slots__ = ("key",)

    def __init__(self, key: tuple[Any, ...]) -> None:
        self.key = key


programs: Cache[Any] = Cache(PROGRAMS)  # what is compiled, or why nothing is; the last part of a key is a Version
_versions: Cache[Version] = Cache(PROGRAMS)
said: Cache[bool] = Cache(PROGRAMS)


def version(module: nn.Module, *, is_traced: bool = False) -> Version:
    """Return the version of a cell or stack as it is; `is_traced`: it just was, which tells what a step changes."""
    known: _Known | None = module.__dict__.get(_OURS)
    if known is None:
        known = module.__dict__[_OURS] = _Known()
    guard = known.guard
    if guard is not None and not is_traced and guard.holds(module):
        return known.last[-1]
    return known.renew(module)


def guard_of(module: nn.Module) -> Guard | None:
    """Return the guard of a module's last version; None where a step changes what it depends on."""
    known: _Known | None = module.__dict__.get(_OURS)
    return known.guard if known else None


def without_versions(twin: M) -> M:
    """Return a twin that `bind` made, with versions of its own."""
    twin.__dict__.pop(_OURS, None)
    return twin


def say_once(text: str, key: Any = None) -> None:
    """Warn, unless this was said."""
    if not said.get(key or text):
        said.put(key or text, True)
        warnings.warn(text, stacklevel=4)


class _Known:
    """The last versions of one module, and the guard of the very last. A copy of the module finds its own."""

    __slots__ = ("guard", "last")

    def __init__(self) -> None:
        self.guard: Guard | None = None
        self.last: list[Version] = []

    def __reduce__(self) -> tuple[type[_Known], tuple[()]]:
        return _Known, ()

    def renew(self, module: nn.Module) -> Version:
        key = cache_key(module)
        found = _versions.get(key)
        if found is None:
            forget()
            key = cache_key(module)
            found = _versions.put(key, Version(key))
        before = self.last
        self.last = [*(v for v in before if v is not found), found]
        if len(self.last) > VERSIONS:
            names = sorted(set(_differences(before[-1].key, key))) or ["its class"]
            self.last, dropped = self.last[1:], self.last[0]
            programs.drop(dropped)
            kind = module.__class__.__name__
            say_once(
                f"{kind} was compiled for {VERSIONS} values of {' and '.join(names)}, and the oldest program is dropped"
                " for each new value: compiling costs far more than a call. What is a tensor (a buffer, a parameter or"
                " a feature of x) may change freely; make it one",
                (kind, *names),
            )
        # What a step changes at each call is part of no key, but every call would find the guard broken.
        self.guard = None if any(m.__class__ in changing for m in module.modules()) else Guard(module)
        return found


class Guard:
    """Whether what a module depends on is, object by object, what it was when this was made.

    It holds no reference to the module, whose memory would otherwise wait for the garbage collector.
    """

    __slots__ = ("arrays", "constants", "dicts", "get", "held", "kinds", "parts", "places", "read", "seen", "size",
                 "sizes", "views")  # fmt: skip

    def __init__(self, module: nn.Module) -> None:
        own = module.__dict__
        self.parts = [m for m in module.modules() if m is not module]
        self.kinds = [module.__class__, *(m.__class__ for m in self.parts)]
        held = list(_containers(module))
        plain = [h for h in held if type(h) is dict or not h]  # of what is empty, the length tells all
        others = [h for h in held if type(h) is not dict and h]
        self.dicts = [*(part.__dict__ for part in self.parts), *plain]
        self.size, self.sizes = len(own), list(map(len, self.dicts))
        getters = [*map(_getter, self.dicts[: len(self.parts)]), *(getter(h) if h else None for h in plain)]
        self.get = _getter(own)
        self.held = [(get, h, get(h)) for get, h in zip(getters, self.dicts, strict=True) if get is not None]
        self.views = [view for h in others for view in ((h, h.values()) if isinstance(h, dict) else (h,))]
        self.views += [[_END]] if self.views else []
        self.seen = [*self.get(own), *chain.from_iterable(self.views)]
        things = [*self.seen, *chain.from_iterable(seen for _, _, seen in self.held)]
        self.places = [place for kind in self.kinds for place in dependencies(kind)]
        self.read = [get(name, None) for get, name in self.places]
        by_name = {id(t) for t in chain(module.parameters(), module.buffers())}
        tensors = [t for t in (*things, *self.read) if isinstance(t, Tensor) and id(t) not in by_name]
        self.constants = [(t, t._version) for t in tensors if not t.is_inference()]
        arrays = (t for t in (*things, *self.read) if not isinstance(t, Tensor | type) and hasattr(t, "tobytes"))
        self.arrays = [(array, array.tobytes()) for array in arrays]

    def holds(self, module: nn.Module) -> bool:
        own = module.__dict__
        if len(own) != self.size or module.__class__ is not self.kinds[0] or list(map(len, self.dicts)) != self.sizes:
            return False
        try:
            now: Any = self.get(own)
            for get, held, seen in self.held:
                if not all(map(is_, get(held), seen)):
                    return False
        except KeyError:
            return False
        if not all(map(is_, chain(now, chain.from_iterable(self.views)) if self.views else now, self.seen)):
            return False
        return (
            not (self.parts and any(m.__class__ is not k for m, k in zip(self.parts, self.kinds[1:], strict=True)))
            and not (self.places and not all(map(is_, [get(name, None) for get, name in self.places], self.read)))
            and not (self.constants and any(t._version != version for t, version in self.constants))
            and not (self.arrays and any(array.tobytes() != before for array, before in self.arrays))
        )


def getter(held: dict[Any, Any]) -> Callable[[dict[Any, Any]], tuple[Any, ...]]:
    """Return what takes everything that a dictionary holds; of one thing too it makes a tuple."""
    return itemgetter(*held) if len(held) > 1 else itemgetter(*held, *held)


def _getter(own: dict[str, Any]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    """Return what takes all attributes of a module, but those that PyTorch's modules keep for themselves."""
    return itemgetter(*_HELD, *(name for name in own if name not in INTERNAL))


def _containers(module: nn.Module) -> Iterator[Any]:
    """Yield everything that a module holds or reads and that may be changed in place, except tensors and modules."""
    seen: set[int] = set()
    for part in module.modules():
        for name, thing in part.__dict__.items():
            if name not in INTERNAL or name in _HELD:
                yield from _inside(thing, seen)
        for get, name in dependencies(part.__class__):
            yield from _inside(get(name, None), seen)


def _inside(thing: Any, seen: set[int]) -> Iterator[Any]:
    if id(thing) in seen or isinstance(thing, Tensor | nn.Module | type | ModuleType | FunctionType):
        return
    seen.add(id(thing))
    held = thing if isinstance(thing, dict | list | set | deque) else getattr(thing, "__dict__", None)
    if held is not None:
        yield held
    for part in thing if isinstance(thing, tuple) else held.values() if isinstance(held, dict) else held or ():
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
    """Return a hashable picture of what an attribute or a global holds; `around`: the objects it is held by."""
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


def obstacle(module: nn.Module) -> str:
    """Return why no symbol can go through the code of a cell or stack as a tensor does; "" where one can."""
    values = [get(name, None) for m in module.modules() for get, name in dependencies(m.__class__)]
    values += [v for m in module.modules() for v in vars(m).values()]
    owners = [getattr(v, "__self__", v) for v in values]
    own = [v.__name__ for v in owners if isinstance(v, type) and issubclass(v, torch.autograd.Function)]
    if own:
        return f"only eager runs the backward of a torch.autograd.Function of your own, here {' and '.join(own)}"
    asks = [m.__class__.__name__ for m in module.modules() if searched(m.__class__).asks_for_tensors]
    return f"the code of {asks[0]} asks whether something is a tensor, which a symbol is not" if asks else ""
