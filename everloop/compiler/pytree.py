"""Nested tuples, lists and dictionaries: the arguments of a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def tree_leaves(tree: Any) -> Iterator[Any]:
    """Yield what nested tuples, lists and dictionaries hold."""
    if isinstance(tree, tuple | list):
        for branch in tree:
            yield from tree_leaves(branch)
    elif isinstance(tree, dict):
        yield from tree_leaves(list(tree.values()))
    else:
        yield tree


def tree_map(tree: Any, change: Callable[[Any], Any]) -> Any:
    """Return nested tuples, lists and dictionaries with every leaf changed."""
    if isinstance(tree, tuple | list):
        return type(tree)([tree_map(branch, change) for branch in tree])
    if isinstance(tree, dict):
        return {k: tree_map(v, change) for k, v in tree.items()}
    return change(tree)
