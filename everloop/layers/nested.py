"""States of stacks and directions: tensors in nested tuples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor


def map_state(function: Callable[..., Any], *states: Any) -> Any:
    """Return the nested state made by `function` from the tensors at each place of `states`."""
    if isinstance(states[0], tuple):
        return tuple(map_state(function, *parts) for parts in zip(*states, strict=True))
    return function(*states)


def each(function: Callable[[Tensor], Any], output: Any) -> Any:
    """Return `function` of an output, or of each by its name where there are several."""
    return type(output)(*map(function, output)) if isinstance(output, tuple) else function(output)


def as_rows(state: Any) -> Any:
    """Return a nested state whose tensors [B, …] have one axis behind the batch, as the compiler carries them."""
    return map_state(lambda s: s.flatten(1) if s.dim() > 2 else s, state)


def shaped_like(state: Any, like: Any) -> Any:
    """Return a nested state of rows [B, n] with the axes that `like` has behind its batch."""
    return map_state(lambda s, form: s.unflatten(-1, form.shape[1:]) if form.dim() > 2 else s, state, like)


def leaves(state: Any) -> list[Tensor]:
    """Return the tensors of a nested state in order."""
    return [leaf for part in state for leaf in leaves(part)] if isinstance(state, tuple) else [state]


def flatten(state: Any, like: Any, found: list[Any]) -> bool:
    """Put the parts of a state into `found`; False if it is not nested as `like`."""
    if not isinstance(like, tuple):
        found.append(state)
        return True
    if not isinstance(state, tuple | list) or len(state) != len(like):
        return False
    return all(flatten(part, form, found) for part, form in zip(state, like, strict=True))


def named(output: Any, state: Any) -> dict[str, Tensor]:
    """Return the tensors of an output, several by their names, and of a nested state by name."""
    fields = getattr(output, "_fields", ())
    names = [f"output {name}" for name in fields] or ["output"]
    found = dict(zip(names, output if fields else (output,), strict=True))
    return found | {f"state {k}": leaf for k, leaf in enumerate(leaves(state))}


def nest(flat: Iterator[Any], like: Any) -> Any:
    """Return the next values of `flat`, nested as `like`."""
    return tuple(nest(flat, part) for part in like) if isinstance(like, tuple) else next(flat)


def describe(state: Any) -> str:
    """Return the shapes of a nested state, nested alike."""
    return f"({', '.join(map(describe, state))})" if isinstance(state, tuple) else str(list(state.shape))
