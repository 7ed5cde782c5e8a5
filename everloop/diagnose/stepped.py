"""The first steps of a call taken one by one, with gradients and without, to compare `layer.step` with a reference."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from everloop.layers.dropout import Wrapper
from everloop.layers.extras import declared
from everloop.layers.nested import each, leaves, named
from everloop.layers.recurrent import Recurrent
from everloop.layers.single_step import unsteppable

STEPS = 3


def can_step(layer: nn.Module, x: Any, options: Collection[str]) -> bool:
    """Whether `layer` takes single steps of such an x, the same whenever it is asked."""
    is_plain = isinstance(layer, Recurrent) and type(x) is Tensor and x.dim() in (2, 3) and "generator" not in options
    return is_plain and x.numel() > 0 and not unsteppable(layer)


def stepped(
    layer: Any, x: Tensor, options: dict[str, Any], way: AbstractContextManager[None], *, as_sequences: bool = False
) -> dict[str, Tensor]:
    """Return outputs and states of a few steps; where it can train, once more with gradients, and those of the weights.

    as_sequences: the layer is called with sequences of one step, and not its `step`.
    """
    time = 1 if layer.batch_first and x.dim() == 3 else 0
    inputs = {"reset", *(name for name, expected in declared(layer.cell).items() if expected.kind == "input")}
    rest = {k: v for k, v in options.items() if k not in ("lengths", "state") and v is not None}

    def run() -> dict[str, Tensor]:
        state, found = options.get("state"), dict[str, Tensor]()
        for t in range(min(x.shape[time], STEPS)):
            given = {k: torch.as_tensor(v).narrow(time, t, 1) if k in inputs else v for k, v in rest.items()}
            if as_sequences:
                y, state = layer(x.narrow(time, t, 1), state=state, **given)
                y = each(lambda rows: rows.squeeze(time), y)
            else:
                given = {k: v.squeeze(time) if k in inputs else v for k, v in given.items()}
                y, state = layer.step(x.select(time, t), state, **given)
            found |= {f"{name} of step {t}": tensor for name, tensor in named(y, ()).items()}
        return found | {f"state {k} after steps": s for k, s in enumerate(leaves(state))}

    with way, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with torch.no_grad():
            found = run()
        if any(isinstance(m, Wrapper) and m.inference_only for m in layer.modules()):
            return found
        learned = {n: p for n, p in layer.named_parameters() if p.requires_grad}
        with torch.enable_grad():
            trained = run()
            weights = [torch.randn(r.shape, dtype=r.dtype) for r in trained.values()]
            loss = sum((r * w).sum() for r, w in zip(trained.values(), weights, strict=True))
            assert isinstance(loss, Tensor)
            wanted, is_reached = list(learned.values()), bool(learned) and loss.requires_grad
            slopes = torch.autograd.grad(loss, wanted, allow_unused=True) if is_reached else [None] * len(wanted)
    found |= {f"{name}, trained": tensor for name, tensor in trained.items()}
    zeros = (torch.zeros_like(p) if g is None else g for g, p in zip(slopes, wanted, strict=True))
    return found | {f"gradient of {n}, by steps": g for n, g in zip(learned, zeros, strict=True)}
