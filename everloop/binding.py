"""Values in the place of a module's tensors: a twin that sees them, and what it was changed by."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def bind(module: M, values: Mapping[str, Any]) -> M:
    """Return a twin of `module` that sees `values` (by dotted name) in place of its parameters.

    The twin shares everything else, is cheap, and leaves `module` as it is: dropped weights, masks and the
    compiler's symbols all enter a step this way.
    """
    twin = object.__new__(type(module))
    own = {name: value for name, value in values.items() if "." not in name}
    attributes = dict(module.__dict__)
    attributes["_parameters"] = {k: v for k, v in module._parameters.items() if k not in own}
    attributes["_modules"] = {
        child: bind(sub, {k[len(child) + 1 :]: v for k, v in values.items() if k.startswith(child + ".")})
        for child, sub in module._modules.items()
        if sub is not None
    }
    twin.__dict__.update(attributes | own)
    return twin


def keep(module: nn.Module, twin: nn.Module, bound: Container[str], prefix: str = "") -> None:
    """Give a module what a step has set on its twin, except the values that `bind` put there."""
    own = module.__dict__
    for name, thing in twin.__dict__.items():
        if own.get(name, keep) is not thing and name not in ("_parameters", "_modules") and prefix + name not in bound:
            own[name] = thing
    for name, sub in module._modules.items():
        if sub is not None:
            keep(sub, twin._modules[name], bound, f"{prefix}{name}.")  # type: ignore[arg-type]
