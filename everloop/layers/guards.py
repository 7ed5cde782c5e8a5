"""What a step depends on besides tensors: attributes, and the globals and class attributes that its code reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from everloop.compiler.dependencies import CODE, changing, dependencies, forget, searched

INTERNAL = frozenset(nn.Module().__dict__) - {"training"}
HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def picture(module: nn.Module, around: tuple[Any, ...] = ()) -> tuple[Any, ...]:
    """Return what a step may depend on besides tensors, hashable; `around`: the objects that hold the module."""
    own, kind, around = module.__dict__, module.__class__, (*around, module)
    passing = changing.get(kind, ())
    return (
        kind,
        *((k, frozen(v, around)) for k, v in own.items() if k not in INTERNAL and k not in passing),
        *(frozen(get(name, None), around) for get, name in dependencies(kind) if name not in passing),
        *((k, picture(m, around)) for k, m in own["_modules"].items() if m is not None),
        *(frozen(own[hooks], around) for hooks in HOOKS if own[hooks]),
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
        return picture(thing, around[:-1])
    if isinstance(thing, CODE) or not hasattr(thing, "__dict__"):
        return _Same(thing), _bytes(thing)
    return _Same(thing), frozen(vars(thing), around)


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


__all__ = ["HOOKS", "INTERNAL", "dependencies", "forget", "frozen", "obstacle", "picture"]
