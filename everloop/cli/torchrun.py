"""Processes that torchrun has started: they join into one run, and what goes wrong is said once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

PATIENCE = timedelta(minutes=30)  # for a process that neither answers nor ends


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """A context in which the processes of torchrun are a group; gives the device that this one has of its machine.

    Without torchrun it is `device`, and there is no group.
    """
    if not is_launched():
        yield device
        return
    if device.type == "cuda":
        device = device if device.index is not None else torch.device("cuda", dist.get_node_local_rank())
        torch.cuda.set_device(device)
    # an optimiser imports what keeps a group alive that is there by then, and a group that outlives Python aborts it
    torch.optim.SGD([torch.zeros(1)])
    store, rank, world = _meeting()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    try:
        yield device
    finally:
        if isinstance(sys.exception(), Exception):
            is_heard()  # before the others miss this one: what they say then is not the cause
        dist.destroy_process_group()


def is_launched() -> bool:
    """Return whether torchrun has started this process."""
    return bool(dist.is_available() and dist.is_torchelastic_launched())


@lru_cache(1)
def is_heard() -> bool:
    """Return whether an error of this process is the first one: those of the others are the same, or follow from it."""
    if not is_launched():
        return True
    try:
        return bool(_meeting()[0].add("errors", 1) == 1)
    except RuntimeError:  # the machine where they meet is gone
        return True


@lru_cache(1)
def _meeting() -> tuple[Any, int, int]:
    """Return where the processes meet, which of them this is, and how many there are."""
    found: tuple[Any, int, int] = next(rendezvous("env://", timeout=PATIENCE))
    return found
