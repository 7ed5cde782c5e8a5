"""Gradients made smaller before the weights move: each number, each unit beside its weights, all by their norm."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from everloop.train.config import TrainConfig

SMALLEST = 1e-3  # the norm that the weights of a unit count as at least, so that those of 0 can move


def clip(model: nn.Module, config: TrainConfig, count: int = 1) -> tuple[float, float]:
    """Clip the gradients, sums over `count`, by value, then per unit, then by norm; return their norm before and after.

    The norm before is infinite or NaN exactly where a gradient is, or where their squares exceed all numbers.
    """
    learned = [p for p in model.parameters() if p.grad is not None]
    if count > 1:
        for p in learned:
            p.grad.div_(count)  # type: ignore[union-attr]
    before = total = _norm(learned)
    if math.isfinite(config.clip_value):
        nn.utils.clip_grad_value_(learned, config.clip_value)
    if math.isfinite(config.clip_adaptive):
        clip_adaptive(learned, config.clip_adaptive)
    if math.isfinite(config.clip_value) or math.isfinite(config.clip_adaptive):
        total = _norm(learned)
    norm = float(total)
    ratio = config.clip_norm / (norm + 1e-6)
    if not ratio >= 1:  # else PyTorch would multiply all of them by 1
        nn.utils.clip_grads_with_norm_(learned, config.clip_norm, total)
    return float(before), norm * min(1.0, ratio)


@torch.no_grad()
def clip_adaptive(parameters: Iterable[nn.Parameter], ratio: float) -> None:
    """Scale the gradient of each unit down to `ratio` times the norm of its weights, where it is larger.

    Brock et al., "High-performance large-scale image recognition without normalization", ICML 2021. A unit is a row of
    a matrix, whatever the axes after the first; a vector, such as a bias, is one.
    """
    for p in parameters:
        assert p.grad is not None, "asked for above"
        axes = tuple(range(1, p.ndim)) if p.ndim > 1 else None
        weight = torch.linalg.vector_norm(p, dim=axes, keepdim=True).clamp_min_(SMALLEST)
        gradient = torch.linalg.vector_norm(p.grad, dim=axes, keepdim=True)
        p.grad.mul_((ratio * weight / gradient.clamp_min_(1e-6)).clamp_max_(1))


def _norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
