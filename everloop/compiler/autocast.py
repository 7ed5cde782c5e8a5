"""Gradients are computed as the forward pass was, wherever `backward` is called."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def without_autocast(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Let the backward pass of a function, which has run without autocast, do so too where autocast is on."""

    @wraps(backward)
    def apart(ctx: Any, *grads: Any) -> Any:
        if not torch.is_autocast_enabled("cpu"):
            return backward(ctx, *grads)
        with torch.autocast("cpu", enabled=False):
            return backward(ctx, *grads)

    return apart
