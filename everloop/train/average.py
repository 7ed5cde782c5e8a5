"""Averages of the weights over the steps: a running one, and one that begins when validation stops improving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from everloop import torch_private
from everloop.train.config import TrainConfig


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

    @property
    def begun(self) -> bool:
        """Whether there is an average already."""
        return True

    def validated(self, merit: float) -> bool:
        """Take note of a validation, the better the larger; return whether the average begins with it."""
        return False

    def state(self) -> dict[str, Any]:
        """Return what a resumed average starts from besides its values."""
        return {}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after update number `step`, counted from 0."""
        ratio = min(self.decay, (step + 1) / (step + 10))
        torch_private.foreach_lerp_(self.values, [w.detach() for w in self.weights], 1 - ratio)

    @torch.no_grad()
    def take(self) -> None:
        """Put the average in place of the weights, for good, if there is one."""
        if not self.begun:
            return
        torch_private.foreach_copy_([w.detach() for w in self.weights], self.values)

    @torch.no_grad()
    def __enter__(self) -> None:
        """Put the average in place of the weights, if there is one."""
        self.kept = [w.detach().clone() for w in self.weights]
        self.take()

    @torch.no_grad()
    def __exit__(self, *error: object) -> None:
        """Put the weights back."""
        assert self.kept is not None, "entered before"
        torch_private.foreach_copy_([w.detach() for w in self.weights], self.kept)
        self.kept = None


class TriggeredAverage(Average):
    """The mean of all weights since the validation that was worse than the best of those `patience` and more before it.

    Merity, Keskar and Socher, "Regularizing and optimizing LSTM language models", ICLR 2018 (NT-ASGD, with SGD).
    """

    def __init__(self, model: nn.Module, patience: int) -> None:
        super().__init__(model, 0.0)
        self.patience = patience
        self.merits: list[float] = []  # of the validations before it begins
        self.count: int | None = None  # weights in the mean; None before it begins

    @property
    def begun(self) -> bool:
        return bool(self.count)

    @torch.no_grad()
    def update(self, step: int) -> None:
        if self.count is not None:
            self.count += 1
            torch_private.foreach_lerp_(self.values, [w.detach() for w in self.weights], 1 / self.count)

    def validated(self, merit: float) -> bool:
        if self.count is not None:
            return False
        before = self.merits[: len(self.merits) - self.patience] if len(self.merits) > self.patience else []
        self.merits.append(merit)
        if before and merit < max(before):
            self.count = 0
        return self.count is not None

    def state(self) -> dict[str, Any]:
        return {"merits": self.merits, "count": self.count}

    def resume(self, state: Mapping[str, Any]) -> None:
        self.merits, self.count = list(state.get("merits", [])), state.get("count")


def average_of(model: nn.Module, config: TrainConfig) -> Average | None:
    """Return the average of a configuration, or None."""
    if config.average_after:
        return TriggeredAverage(model, config.average_after)
    return Average(model, config.ema_decay) if config.ema_decay else None
