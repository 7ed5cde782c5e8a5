"""Everything a run continues from, in one file: weights, optimiser, average, carried state, random numbers, place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from everloop.errors import RunError
from everloop.models.weights import fill, own_tensors, read_tensors, write_tensors


def write_checkpoint(
    path: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    *,
    carried: Any,
    average: list[Tensor],
    facts: Mapping[str, Any],
) -> None:
    """Write a checkpoint, all or nothing. `facts` is anything JSON holds."""
    tensors = {f"model/{name}": tensor for name, tensor in own_tensors(model).items()}
    for number, values in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{number}/{key}": value for key, value in values.items()}
    tensors |= {f"average/{number}": value for number, value in enumerate(average)}
    shape = _flatten(carried, "carried", tensors)
    tensors["random/cpu"] = torch.get_rng_state()
    if next(model.parameters()).device.type == "cuda":
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    write_tensors(path, tensors, {**facts, "carried": shape})


def read_checkpoint(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, *, average: list[Tensor]
) -> tuple[Any, dict[str, Any]]:
    """Put a checkpoint's contents in place; return (carried state, facts).

    Raises:
        RunError: missing, damaged, or made by another model.
    """
    tensors, facts = read_tensors(path)
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        head, _, rest = name.partition("/")
        parts.setdefault(head, {})[rest] = tensor
    if "model" not in parts or "step" not in facts or "cpu" not in parts.get("random", {}):
        raise RunError(f"{path} is no checkpoint of a training run; expected what a run calls last.safetensors")
    fill(model, parts["model"], path)
    saved = parts.get("average", {})
    if len(saved) != len(average):
        raise RunError(f"{path} holds {len(saved)} averaged weights; expected {len(average)}")
    for number, value in enumerate(average):
        value.copy_(saved[str(number)])
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts.get("optimiser", {}).items():
        number_text, _, key = name.partition("/")
        states.setdefault(int(number_text), {})[key] = tensor
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
    torch.set_rng_state(parts["random"]["cpu"])
    if "cuda" in parts["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(parts["random"]["cuda"])
    device = next(model.parameters()).device
    carried = _unflatten(facts["carried"], {f"carried/{k}": v for k, v in parts.get("carried", {}).items()}, device)
    return carried, facts


def _flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Put the tensors of a nested tuple into `tensors`; return its shape: names, lists, None."""
    if isinstance(value, tuple | list):
        return [_flatten(part, f"{name}/{i}", tensors) for i, part in enumerate(value)]
    if value is None:
        return None
    # the name must have a part after "carried" even when the state is one bare tensor
    key = name if "/" in name else f"{name}/0"
    tensors[key] = value
    return key


def _unflatten(shape: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    if isinstance(shape, list):
        return tuple(_unflatten(part, tensors, device) for part in shape)
    return None if shape is None else tensors[shape].to(device)
