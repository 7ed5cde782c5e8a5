"""Layers and models with matrices of 8 bits, for inference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from everloop.cell import Cell
from everloop.compiler.quantize import matrices, measured
from everloop.compiler.target import reference
from everloop.errors import OptionError
from everloop.layers.as_torch import AsTorch
from everloop.layers.dispatch import using
from everloop.layers.quantized_cell import Draft, Observed, QuantizedCell
from everloop.layers.torch_nn import GRU, LSTM, RNN, accelerate


def quantize(layer: nn.Module, data: Tensor | Callable[[Any], Any] | None = None) -> Any:
    """Return a copy of a layer, for inference, whose cells multiply whole numbers of 8 bits.

    Each matrix of a product becomes int8 with a scale for each of its rows; what it multiplies is rounded to 8 bits at
    every step. That has one scale for all rows where its range is proved from the graph of the step, for any weights
    and inputs, as those of the states of an RNN with tanh, an LSTM or a GRU are; a row outside of that range (a first
    state that was given or learned) and what comes from inputs has the scale of its own largest number. All else stays
    float. The copy is called, streamed and saved as the layer is; to load it, quantize a layer of the same kind, with
    any weights, and load its state_dict. `explain` says what was proved.

    Args:
        layer: a cell, a Recurrent layer, an RNN, LSTM or GRU of this library or of torch.nn (which become an `AsTorch`,
            called in the same way), or any module with such inside.
        data: x, or a function that calls the layer it is given, on what is like what the layer will see: where a state
            has no proved range, or never fills it, its scale is that of the largest numbers that are measured.

    Raises:
        OptionError: there is no cell in it, it is in 8 bits already, a weight is not finite or has no numbers, or a
            state has no proved range and no data.
        CellError: a cell reads a memory of as many rows as a call brings.
        UnsupportedError: a step cannot be traced.
    """
    for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
        if tensor.is_meta:
            raise OptionError(
                f"quantize: {name} is on the device meta and has no numbers; give the layer some first, by"
                ' layer.to_empty(device="cpu") and load_state_dict'
            )
    twin, drafts = _drafted(layer)
    for draft in drafts:
        for name, matrix in matrices(draft.step, draft.found, draft.known).items():
            need_finite(f"in {type(draft.cell).__name__} the weight {name}", matrix)
    if data is None:
        for draft in drafts:
            _need_no_data(draft)
        return _finished(twin, drafts, [{}] * len(drafts))
    return _finished(twin, drafts, _measured(twin, drafts, data))


def need_finite(name: str, weight: Tensor) -> None:
    """Raise OptionError where a weight has no scale."""
    if not weight.isfinite().all():
        raise OptionError(f"quantize: {name} has numbers that are infinite or NaN")


def empty(layer: nn.Module) -> Any:
    """Return what `quantize` makes of a layer, for numbers that are to be loaded: nothing is measured."""
    twin, drafts = _drafted(layer)
    return _finished(twin, drafts, [dict.fromkeys((f.name for f in draft.found), 0.0) for draft in drafts])


def _drafted(layer: nn.Module) -> tuple[Any, list[Draft]]:
    """Return a copy of a layer, inside of a module that holds it, and the drafts of its cells."""
    twin: Any = nn.ModuleDict({"layer": accelerate(copy.deepcopy(layer))}).requires_grad_(False).eval()
    _put(twin, (RNN, LSTM, GRU), [AsTorch.of(found) for found in _inside(twin, (RNN, LSTM, GRU))])
    found = _inside(twin, (Cell,))
    if any(isinstance(part, QuantizedCell) for cell in found for part in cell.modules()):
        raise OptionError(f"quantize: {type(layer).__name__} is in 8 bits already")
    drafts = [Draft(cell) for cell in found]
    if not drafts:
        raise OptionError(f"quantize: {type(layer).__name__} has no cell inside; expected a layer of everloop")
    return twin, drafts


def _finished(twin: Any, drafts: list[Draft], sizes: list[dict[str, float]]) -> Any:
    """Return the layer with quantized cells; sizes: of the rows of each, where they were measured."""
    _put(twin, (Cell,), [QuantizedCell(d, measured(d.found, seen)) for d, seen in zip(drafts, sizes, strict=True)])
    return twin["layer"]


def _measured(twin: Any, drafts: list[Draft], data: Tensor | Callable[[Any], Any]) -> list[dict[str, float]]:
    """Return the largest finite number of the rows of each product; raise OptionError where there is none but 0."""
    observed = [Observed(draft) for draft in drafts]
    _put(twin, (Cell,), observed)
    with torch.no_grad(), using(reference().name):
        _ = data(twin["layer"]) if callable(data) else twin["layer"](data)
    for draft, cell in zip(drafts, observed, strict=True):
        for each in draft.found:
            if each.kind == "measured" and cell.seen[each.name] == 0:
                raise OptionError(
                    f"quantize: in {type(draft.cell).__name__} the product with {each.name} met no finite number but 0"
                    " in the data; give data that is like what the layer will see"
                )
    return [cell.seen for cell in observed]


def _put(twin: Any, kinds: tuple[type, ...], modules: Sequence[nn.Module]) -> None:
    """Put modules in the place of those of some kinds, under every name that these have."""
    instead = dict(zip(_inside(twin, kinds), modules, strict=True))
    for parent, name, child in list(_places(twin, kinds)):
        setattr(parent, name, instead[child])


def _inside(module: nn.Module, kinds: tuple[type, ...]) -> list[Any]:
    """Return the outermost modules of some kinds, each once."""
    return list(dict.fromkeys(child for _, _, child in _places(module, kinds)))


def _places(module: nn.Module, kinds: tuple[type, ...]) -> Iterator[tuple[Any, str, Any]]:
    """Yield the places of the outermost modules of some kinds: what holds it, under which name, and it."""
    for name, child in module._modules.items():
        if isinstance(child, kinds):
            yield module, name, child
        elif child is not None:
            yield from _places(child, kinds)


def _need_no_data(draft: Draft) -> None:
    """Raise OptionError where a range has to be measured."""
    for each in draft.found:
        if each.kind == "measured":
            states = " and ".join(each.because) or "numbers"
            raise OptionError(
                f"quantize: in {type(draft.cell).__name__} the product with {each.name} reads {states}, which may grow"
                f" without bound: no range of theirs is proved. Give data=x, or data=lambda layer: layer(x, …), like"
                " what the layer will see; the largest numbers are measured on it"
            )
