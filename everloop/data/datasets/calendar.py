"""What a model knows of time: cycles of the calendar, and what is planned for the steps to come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import torch
from torch import Tensor

from everloop.errors import OptionError, unknown

Cycle = Literal["hour", "weekday", "month"]


def calendar_of(times: Sequence[datetime], cycles: Sequence[Cycle]) -> Tensor:
    """Return sine and cosine of each cycle at each time [N, 2 * cycles]."""
    turns: dict[Cycle, Any] = {
        "hour": lambda t: (t.hour + t.minute / 60) / 24,
        "weekday": lambda t: t.weekday() / 7,
        "month": lambda t: (t.month - 1 + (t.day - 1) / 31) / 12,
    }
    for cycle in cycles:
        if cycle not in turns:
            raise OptionError(unknown("cycle of the calendar", cycle, turns))
    rows = [[f(2 * math.pi * turns[c](t)) for c in cycles for f in (math.sin, math.cos)] for t in times]
    return torch.tensor(rows).reshape(len(times), 2 * len(cycles))
