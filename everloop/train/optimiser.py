"""Updates of the weights: the optimiser with its two groups, and the learning rate over time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from everloop.train.config import TrainConfig


def optimiser(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimiser of a configuration, with decay on matrices alone: not on vectors, nor on embeddings.

    AdamW is Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """
    embedded = {id(p) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) for p in m.parameters()}
    learned = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in learned if p.ndim >= 2 and id(p) not in embedded]
    plain = [p for p in learned if p.ndim < 2 or id(p) in embedded]
    groups = [{"params": decayed, "weight_decay": config.decay}, {"params": plain, "weight_decay": 0.0}]
    match config.optimiser:
        case "adamw":
            return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
        case "adam":
            return torch.optim.Adam(groups, lr=config.lr, betas=config.betas, fused=True)
        case "sgd":
            return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=config.lr, alpha=config.betas[1], momentum=config.momentum)


class LearningRateSchedule:
    """The learning rate of each step: linear warm-up, then cosine, plateau, constant, or rising by equal factors.

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
        if config.schedule == "rising":
            left = config.steps - 1 - step
            return config.lr * math.pow(config.min_lr_ratio, left / max(1, config.steps - 1 - config.warmup_steps))
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
