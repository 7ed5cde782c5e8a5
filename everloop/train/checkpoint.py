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
    keep: Path | None = None,
) -> None:
    """Write a checkpoint, all or nothing; the one before stays as `keep`. `facts` is anything JSON holds."""
    tensors = {f"model/{name}": tensor for name, tensor in own_tensors(model).items()}
    for number, values in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{number}/{key}": value for key, value in values.items()}
    tensors |= {f"average/{number}": value for number, value in enumerate(average)}
    shape = _flatten(carried, "carried", tensors)
    tensors["random/cpu"] = torch.get_rng_state()
    if next(model.parameters()).device.type == "cuda":
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    write_tensors(path, tensors, {**facts, "carried": shape}, keep)


class Checkpoint:
    """A checkpoint as it was read; nothing is put in place yet.

    Raises:
        RunError: missing, damaged, or something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        tensors, self.facts = read_tensors(path)
        self.parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            head, _, rest = name.partition("/")
            self.parts.setdefault(head, {})[rest] = tensor
        if "model" not in self.parts or "step" not in self.facts or "cpu" not in self.parts.get("random", {}):
            raise RunError(f"{path} is no checkpoint of a training run; expected what a run calls last.safetensors")

    def put(self, model: nn.Module, optimiser: torch.optim.Optimizer, *, average: list[Tensor]) -> Any:
        """Put the contents in place; return the carried state.

        Raises:
            RunError: made by another model.
        """
        fill(model, self.parts["model"], self.path)
        saved = self.parts.get("average", {})
        if len(saved) != len(average):
            raise RunError(
                f"{self.path} holds {len(saved)} averaged weights; expected {len(average)}: a run keeps the averaging "
                "that it began with (ema_decay, average_after)"
            )
        for number, value in enumerate(average):
            value.copy_(saved[str(number)])
        states: dict[int, dict[str, Tensor]] = {}
        for name, tensor in self.parts.get("optimiser", {}).items():
            number_text, _, key = name.partition("/")
            states.setdefault(int(number_text), {})[key] = tensor
        optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
        random = self.parts["random"]
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and torch.cuda.is_available():
            torch.cuda.set_rng_state(random["cuda"])
        device = next(model.parameters()).device
        carried = {f"carried/{name}": tensor for name, tensor in self.parts.get("carried", {}).items()}
        return _unflatten(self.facts["carried"], carried, device)


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
