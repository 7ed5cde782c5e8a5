"""What a training run came to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from everloop.errors import RunError
from everloop.models.loss import Score


@dataclass(frozen=True)
class Run:
    """What a training run came to. Where a path is expected, a Run stands for its folder."""

    path: Path | None
    step: int
    best: Score | None
    best_step: int
    interrupted: bool
    skipped: int = 0
    """Steps without effect because loss or gradient were not finite."""

    def __fspath__(self) -> str:
        if self.path is None:
            raise RunError("this run was not kept in a folder; give train(…, out=FOLDER)")
        return str(self.path)

    def __str__(self) -> str:
        place = f" in {self.path}" if self.path else ""
        best = f"best validation at step {self.best_step:,}: {self.best}" if self.best else "never validated"
        steps = f"{self.step:,} step{'' if self.step == 1 else 's'}"
        skipped = f", {self.skipped:,} of them skipped" if self.skipped else ""
        return f"{'interrupted after' if self.interrupted else 'finished'} {steps}{skipped}{place}; {best}"
