"""A trained model in 8 bits: its cells compute so, and the weights of embeddings and linear layers are kept so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from everloop.compiler.quantize import rounded
from everloop.layers import quantize as of_layers
from everloop.layers.quantized_cell import QuantizedCell
from everloop.models.model import Model
from everloop.models.weights import own_tensors, write_tensors

SCALE = " scale"  # behind the name of a tensor that is kept as int8: the scale of each of its rows
FACT = "quantized"  # in the facts of a file


def quantize(layer: nn.Module, data: Tensor | Callable[[Any], Any] | None = None) -> Any:
    """Return a copy of a layer or a model, for inference, whose cells multiply whole numbers of 8 bits.

    Of a `Model` the weights of embeddings and linear layers outside of cells, too, are rounded to what int8 holds, row
    by row, as `everloop quantize` stores them; in memory they stay float. All else is as in `everloop.layers.quantize`.

    Args:
        layer: a cell, a layer, a model, or any module with such inside.
        data: x, or a function that calls what it is given, where a range has to be measured.

    Raises:
        OptionError: there is no cell in it, a weight is not finite, or a state has no proved range and no data.
        CellError: a cell reads a memory of as many rows as a call brings.
        UnsupportedError: a step cannot be traced.
    """
    small = of_layers.quantize(layer, data)
    if not isinstance(layer, Model):
        return small
    for name, weight in _weights(small):
        of_layers.need_finite(f"the weight {name.removesuffix('.weight')}", weight)
    return _rounded(small)


def empty(model: Model) -> Any:
    """Return what `quantize` makes of a model, for numbers that are to be loaded."""
    return _rounded(of_layers.empty(model))


def write_quantized(path: Path, small: Any, facts: Mapping[str, Any]) -> None:
    """Write a model that `quantize` made, each rounded weight as int8."""
    tensors, inside = own_tensors(small), dict(_weights(small))
    for name in [name for name in tensors if name in inside]:
        whole, scale = rounded(tensors[name])
        tensors |= {name: whole, name + SCALE: scale.to(inside[name].dtype)}
    write_tensors(path, tensors, {**facts, FACT: True})


def widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a file holds as the tensors of a model."""
    found = {name: t for name, t in tensors.items() if not name.endswith(SCALE)}
    scales = {name.removesuffix(SCALE): t for name, t in tensors.items() if name.endswith(SCALE)}
    return found | {name: found[name] * scale[:, None] for name, scale in scales.items() if name in found}


def _rounded(small: Any) -> Any:
    """Round the weights of embeddings and linear layers."""
    with torch.no_grad():
        for _, weight in _weights(small):
            whole, scale = rounded(weight)
            weight.copy_(whole * scale[:, None])
    return small


def _weights(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of embeddings and linear layers by name, without those of cells."""
    for name, child in model.named_children():
        if isinstance(child, nn.Embedding | nn.Linear):
            yield f"{prefix}{name}.weight", child.weight
        elif not isinstance(child, QuantizedCell):
            yield from _weights(child, f"{prefix}{name}.")
