"""A graph on tensors: what its operations mean, one after the other, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from everloop.compiler.ir import Graph, Value


def evaluate(graph: Graph, leaf: Callable[[Value], Tensor], like: Tensor) -> dict[str, Tensor]:
    """Return the outputs of `graph` by name.

    leaf: the tensor of an input; like: rows [B, anything] that give batch, dtype and device.
    """
    results: dict[Value, Any] = {}
    for value in graph.values:
        args = [results[a] for a in value.args]
        if value.op == "input":
            results[value] = leaf(value)
        elif value.op == "constant":
            rows = like.shape[:1] if value.type.rows else ()
            results[value] = like.new_full((*rows, *value.type.shape), value.number)
        elif value.op == "call":
            results[value] = value.data[0](*args)
        else:
            results[value] = value.operation.meaning(*args, *value.data)
    return {name: results[value] for name, value in graph.outputs.items()}
