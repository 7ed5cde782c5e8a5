"""The numbers a step sees besides its input and its states."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Bindings:
    """Tensors by the dotted name under which the step reads them.

    fixed: [m] or [m, k], the same at every step (parameters).
    rows:  [B, n], one row a sequence (dropout masks, contexts).
    steps: [T, B, n], one row a step and sequence (zoneout masks).
    """

    fixed: dict[str, Tensor]
    rows: dict[str, Tensor] = field(default_factory=dict)
    steps: dict[str, Tensor] = field(default_factory=dict)

    def under(self, prefix: str) -> Bindings:
        """Return the same tensors with `prefix.` before each name."""
        return Bindings(
            *({f"{prefix}.{k}": v for k, v in part.items()} for part in (self.fixed, self.rows, self.steps))
        )
