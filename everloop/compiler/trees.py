"""Nested tuples, lists and dictionaries: the arguments of a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def leaves(tree: Any) -> Iterator[Any]:
    """Yield what nested tuples, lists and dictionaries hold."""
    if isinstance(tree, tuple | list):
        for branch in tree:
            yield from leaves(branch)
    elif isinstance(tree, dict):
        yield from leaves(list(tree.values()))
    else:
        yield tree


def mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    """Return nested tuples, lists and dictionaries with every leaf changed."""
    if isinstance(tree, tuple | list):
        return type(tree)([mapped(branch, change) for branch in tree])
    if isinstance(tree, dict):
        return {k: mapped(v, change) for k, v in tree.items()}
    return change(tree)
