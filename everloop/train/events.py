"""What happens during training, told to whoever wants to show it: every event prints itself as one line."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from everloop.models.loss import Score


@dataclass(frozen=True)
class Started:
    """Training begins, or goes on, at `step` of `steps`."""

    step: int
    steps: int
    target: str
    parameters: int

    def __str__(self) -> str:
        verb = f"resuming after step {self.step:,}," if self.step else "training,"
        return f"{verb} {self.steps:,} steps, {self.parameters:,} parameters"


@dataclass(frozen=True)
class Stepped:
    """Some steps were made: `loss` is the mean over them; `rate` counts targets a second, `left` seconds.

    `norm` is that of the last gradient before clipping, `clipped_norm` after it, and `clipped` in what fraction of the
    steps the two differ. `skipped` counts the steps of the run whose loss or gradient was not finite and that had no
    effect; the loss is NaN if these were all. `symbols` says whether the loss is the negative log-likelihood of
    symbols, so that it is shown in bits too.
    """

    step: int
    steps: int
    target: str
    loss: float
    lr: float
    norm: float
    clipped_norm: float
    clipped: float
    skipped: int
    rate: float
    left: float
    symbols: bool = True

    @property
    def bits(self) -> float:
        """Bits per target."""
        return self.loss / math.log(2)

    @property
    def figures(self) -> dict[str, float]:
        """The figures by name, as metrics have them; no loss where every step was skipped."""
        bits = {"bits": self.bits} if self.symbols else {}
        known = {} if math.isnan(self.loss) else {"loss": self.loss, **bits}
        norms = {"norm": self.norm, "clipped_norm": self.clipped_norm, "clipped": self.clipped}
        return {**known, "lr": self.lr, **norms, "skipped": self.skipped, "rate": round(self.rate)}

    def __str__(self) -> str:
        bits = f"  {self.bits:.3f} bits/{self.target}" if self.symbols else ""
        skipped = f"  {self.skipped:,} skipped" if self.skipped else ""
        return (
            f"step {self.step:>6,}/{self.steps:,}  loss {self.loss:.4f}{bits}  {self.rate:,.0f} {self.target}s/s  "
            f"lr {self.lr:.2e}  norm {self.norm:.2f}{skipped}  {clock(self.left)} left"
        )


@dataclass(frozen=True)
class Validated:
    """The model was validated after `step` steps; `best` says whether never better."""

    step: int
    target: str
    score: Score
    best: bool

    @property
    def figures(self) -> dict[str, float]:
        """The figures by name, as metrics have them."""
        bits = {"bits": self.score.bits} if self.score.symbols else {}
        return {"loss": self.score.loss, **bits, **self.score.means}

    def __str__(self) -> str:
        return f"step {self.step:>6,}  valid {self.score} per {self.target}{'  (best so far)' if self.best else ''}"


@dataclass(frozen=True)
class Note:
    """Anything else worth a line."""

    text: str

    def __str__(self) -> str:
        return self.text


Event = Started | Stepped | Validated | Note
Report = Callable[[Event], None]


def clock(seconds: float) -> str:
    """Return a time span as people write it."""
    whole = round(seconds) if math.isfinite(seconds) else 0
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
