"""Updates of the weights: AdamW in two groups, the learning rate over time, the running average."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from everloop import torch_private
from everloop.train.config import TrainConfig


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW with decay on matrices alone: not on vectors, nor on embeddings.

    Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """
    embedded = {id(p) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) for p in m.parameters()}
    learned = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in learned if p.ndim >= 2 and id(p) not in embedded]
    plain = [p for p in learned if p.ndim < 2 or id(p) in embedded]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


class LearningRateSchedule:
    """The learning rate of each step: linear warm-up, then cosine, plateau or constant.

    Loshchilov and Hutter, "SGDR: Stochastic gradient descent with warm restarts", ICLR 2017 (one cosine, no restart).
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.halvings = 0
        self.waited = 0

    def __call__(self, step: int) -> float:
        """Return the learning rate of update number `step`, counted from 0."""
        config = self.config
        if step < config.warmup_steps:
            return config.lr * (step + 1) / (config.warmup_steps + 1)
        if config.schedule == "plateau":
            return config.lr * max(0.5**self.halvings, config.min_lr_ratio)
        if config.schedule == "constant":
            return config.lr
        done = min(1.0, (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps))
        return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * (1 + math.cos(math.pi * done)) / 2)

    def validated(self, improved: bool) -> None:
        """Take note of a validation: "plateau" halves the rate when there has been no improvement for long enough."""
        self.waited = 0 if improved else self.waited + 1
        if self.config.schedule == "plateau" and self.waited >= self.config.plateau:
            self.halvings, self.waited = self.halvings + 1, 0

    def state(self) -> dict[str, Any]:
        """Return what a resumed schedule starts from."""
        return {"halvings": self.halvings, "waited": self.waited}

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.halvings, self.waited = state["halvings"], state["waited"]


class Average:
    """An exponential running average of the weights; it often validates better than the weights themselves.

    Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992. The weight of the old value
    starts at 0.1 and grows to `decay`, so that the first weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.values = [p.detach().clone() for p in self.weights]
        self.kept: list[Tensor] | None = None

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after update number `step`, counted from 0."""
        ratio = min(self.decay, (step + 1) / (step + 10))
        torch_private.foreach_lerp_(self.values, [w.detach() for w in self.weights], 1 - ratio)

    @torch.no_grad()
    def take(self) -> None:
        """Put the average in place of the weights, for good."""
        torch_private.foreach_copy_([w.detach() for w in self.weights], self.values)

    @torch.no_grad()
    def __enter__(self) -> None:
        """Put the average in place of the weights."""
        self.kept = [w.detach().clone() for w in self.weights]
        self.take()

    @torch.no_grad()
    def __exit__(self, *error: object) -> None:
        """Put the weights back."""
        assert self.kept is not None, "entered before"
        torch_private.foreach_copy_([w.detach() for w in self.weights], self.kept)
        self.kept = None
