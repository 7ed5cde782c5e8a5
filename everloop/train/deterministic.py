"""Training whose numbers come again: what PyTorch cannot repeat is refused, and what else they depend on is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from everloop.errors import TrainingError
from everloop.train.environment import environment


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """A context in which PyTorch takes no operation that gives other numbers each time; afterwards it is as it was.

    Raises:
        TrainingError: an operation has no other way; the message names it.
    """
    if not wanted:
        yield
        return
    before, tuned = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        said = str(error).partition(". ")[0]
        raise TrainingError(f"deterministic is on, and {said}; train without it, or on the CPU") from error
    finally:
        torch.set_deterministic_debug_mode(before)
        torch.backends.cudnn.benchmark = tuned


def same_numbers(device: torch.device) -> str:
    """Return what numbers depend on besides data, settings and seed, in a sentence."""
    facts = environment(device)
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("everloop", "torch"))
    where = facts.get("gpu", facts["processor"])
    return (
        "deterministic: the same data, settings and seed give the same numbers again on this processor, with as many "
        f"threads and these versions ({where}, {facts['threads']} thread{'s' * (facts['threads'] != 1)}, {versions}); "
        "others round otherwise"
    )
