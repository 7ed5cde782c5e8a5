"""What a run was made with: versions, processor, threads, command, state of the code."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("everloop", "torch", "numpy", "llvmlite", "safetensors")


def environment(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Return what the numbers of a run may depend on besides its settings and data."""
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "system": platform.platform(),
        "processor": _processor(),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "device": str(device),
        **gpu,
        "command": sys.argv,
        "git": _git(),
    }


def other_numbers(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return, in a sentence, what rounds otherwise than where a run was trained before; nothing where nothing does."""
    then, here = (dict(_deciding(facts)) for facts in (before, now))
    changed = [name for name in here if name in then and then[name] != here[name]]
    was, is_now = (", ".join(found[name] for name in changed) for found in (then, here))
    return f"trained with {was}, now with {is_now}: numbers agree to rounding, not to the bit" if changed else ""


def _deciding(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the names of facts that decide how numbers are rounded, and what is said of each."""
    for name, one in (("processes", "process"), ("threads", "thread")):
        if name in facts:
            yield name, f"{facts[name]} {one if facts[name] == 1 else name}"
    for name in ("processor", "device", "gpu"):
        if name in facts:
            yield name, str(facts[name])
    versions = facts.get("versions")
    for name, number in versions.items() if isinstance(versions, dict) else ():
        yield f"version of {name}", f"{name} {number}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Return the name of the processor, as Linux tells it where it does."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(errors="replace").splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git() -> str | None:
    """Return the commit of the working folder, with -dirty where files differ from it; None outside of any."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
