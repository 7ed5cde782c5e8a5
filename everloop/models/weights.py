"""Tensors in safetensors files: written all or nothing, checked when read. Nothing here is ever a pickle."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from everloop.data.files import parse_json, write_atomically
from everloop.errors import RunError

FORMAT, BEFORE = "everloop-2", "everloop-1"  # the checksum of the one before is of names and numbers alone


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors to save, by name: a tensor that several names share (tied weights) comes once."""
    saved = module.state_dict(keep_vars=True)
    seen: set[int] = set()
    own = {}
    for name, tensor in saved.items():
        if id(tensor) not in seen:
            own[name] = tensor.detach()
        seen.add(id(tensor))
    return own


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], keep: Path | None = None
) -> None:
    """Write tensors and facts (anything JSON holds) as one safetensors file; the one before stays as `keep`."""
    # clone: a fused layer's weights may be views of one storage, which safetensors refuses
    content = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in sorted(tensors.items())}
    said = json.dumps(facts)
    notes = {"format": FORMAT, "checksum": _checksum(content, _outside(content, said)), "facts": said}
    write_atomically(path, save(content, notes), keep)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and facts of a file that `write_tensors` wrote.

    Raises:
        RunError: missing, damaged or written by something else.
    """
    if not path.is_file():
        raise RunError(f"{path}: there is no such checkpoint")
    try:
        with safe_open(path, "pt") as file:
            notes = file.metadata() or {}
            # clone: a tensor in the middle of a file is not aligned, and kernels then round in another order
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged or no safetensors file: {error}") from None
    if notes.get("format") not in (FORMAT, BEFORE):
        raise RunError(f"{path} was not written by Everloop (format {notes.get('format')!r}; expected {FORMAT!r})")
    outside = _outside(tensors, notes.get("facts", "")) if notes["format"] == FORMAT else ""
    if notes.get("checksum") != (found := _checksum(tensors, outside)):
        raise RunError(f"{path} is damaged: its checksum is {found}; expected {notes.get('checksum')}")
    try:
        return tensors, parse_json(notes["facts"])
    except (KeyError, ValueError) as error:
        raise RunError(f"{path} is damaged: what it says of the training is no JSON ({error})") from None


def fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Copy tensors into a module by name.

    Raises:
        RunError: names or sizes do not fit; the message names layer, got and expected.
    """
    own = own_tensors(module)
    for name, tensor in own.items():
        if name in tensors and tensors[name].shape != tensor.shape:
            raise RunError(
                f"{path} does not fit the model: {name} got {list(tensors[name].shape)}, expected {list(tensor.shape)}"
            )
    if missing := [name for name in own if name not in tensors]:
        raise RunError(f"{path} does not fit the model: it lacks {_some(missing)}")
    if extra := [name for name in tensors if name not in own]:
        raise RunError(f"{path} does not fit the model: the model has no {_some(extra)}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _outside(tensors: Mapping[str, Tensor], facts: str) -> str:
    """Return what a file says besides names and numbers."""
    return json.dumps([facts, *((str(t.dtype), list(t.shape)) for _, t in sorted(tensors.items()))])


def _checksum(tensors: Mapping[str, Tensor], outside: str) -> str:
    value = zlib.crc32(outside.encode())
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
