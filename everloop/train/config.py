"""The settings of a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from everloop.data.settings import from_table, setting
from everloop.errors import OptionError


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained. The same settings with the same data give the same weights."""

    steps: int = 5_000
    """Updates of the weights."""
    epochs: float | None = None
    """Passes over the training split, in place of `steps`; a run keeps the steps that they are."""
    batch: int = 64
    """Streams, or sequences, in a batch."""
    accumulate: int = 1
    """Batches in an update: their gradient is that of one large batch; of streams, windows one after another."""
    length: int | None = None
    """Streams of text: time steps in a batch, and how far gradients reach back; by default 256."""
    length_jitter: int = 0
    """Streams of text: the standard deviation of the steps in a batch; one batch in twenty has half of them. The
    learning rate is scaled with the steps (variable BPTT: Merity et al. 2018, where it is 5); 0: all have `length`."""
    lr: float = 2e-3
    """Highest learning rate, reached after the warm-up."""
    warmup: int | None = None
    """Steps over which the learning rate rises from 0; by default a tenth of all, at most 100."""
    schedule: Literal["cosine", "plateau", "constant", "rising"] = "cosine"
    """After the warm-up: a cosine down to `min_lr_ratio`, halved whenever validation stops improving, constant, or
    rising from there to `lr` by equal factors (a range test)."""
    min_lr_ratio: float = setting(0.05, old="floor")
    """The lowest learning rate, as a fraction of the highest."""
    plateau: int = 2
    """Validations without improvement after which the schedule "plateau" halves the learning rate."""
    optimiser: Literal["adamw", "adam", "sgd", "rmsprop"] = "adamw"
    """How gradients move the weights, as PyTorch does it."""
    weight_decay: float | None = None
    """Decay of matrices; biases, embeddings and vectors have none. By default 0.01 with AdamW, which keeps it out of
    gradients, and 0 with the others, which do not."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Memory of AdamW and Adam for gradients and for their squares; RMSProp has the latter alone."""
    momentum: float = 0.0
    """SGD and RMSProp: the fraction of the last step that is made again."""
    clip_norm: float = 1.0
    """Gradients with a larger norm are scaled down to it; inf: never."""
    clip_value: float = math.inf
    """Single gradient numbers are cut off at this size; inf: never."""
    clip_adaptive: float = math.inf
    """The gradient of a unit (a row of a matrix) is scaled down to this fraction of the norm of its weights, such as
    0.01 (Brock et al. 2021); inf: never."""
    max_skips: int = 5
    """Steps that are skipped in a row, because loss or gradient are not finite, before training stops; 0: none."""
    ema_decay: float = setting(0.0, old="average")
    """Decay of an exponential moving average of the weights, which is validated, and kept (0: none)."""
    average_after: int = 0
    """Validations that may bring nothing better before the weights from then on are averaged, and the average validated
    and kept (NT-ASGD, with SGD: Merity et al. 2018, where it is 5); 0: never."""
    validate: int = 250
    """Steps between validations; the last step is always followed by one."""
    best_metric: str = setting("loss", old=("monitor", "watch"))
    """The figure of validation that says which weights are best: the smallest loss, or the largest of any other."""
    early_stop: int = 0
    """Validations without improvement after which training stops; 0: never."""
    log_every: int = setting(10, old="log")
    """Steps between lines of metrics."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: the forward pass under autocast, so that products round their factors to bfloat16. Weights, optimiser and
    validation stay in float32."""
    keep_memory: bool = True
    """Whether the process keeps the memory that a step frees for the next one, where the C library is glibc."""
    deterministic: bool = False
    """Whether operations that give other numbers each time are refused by name, and what else numbers depend on is
    told. The models here have none on the CPU: there it changes no number."""
    seed: int = 0
    """Where the random numbers of dropout and data order start."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "plateau", "validate", "log_every"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        _check("epochs", self.epochs, self.epochs is None or 0 < self.epochs < math.inf, "a number above 0")
        _check("length", self.length, self.length is None or self.length >= 1, "at least 1")
        _check("length_jitter", self.length_jitter, self.length_jitter >= 0, "0 or more")
        _check("warmup", self.warmup, self.warmup is None or self.warmup >= 0, "0 or more")
        _check("early_stop", self.early_stop, self.early_stop >= 0, "0 or more")
        _check("max_skips", self.max_skips, self.max_skips >= 0, "0 or more")
        _check("seed", self.seed, 0 <= self.seed < 2**32, "an integer from 0 to 4294967295")
        for name in ("lr", "clip_norm", "clip_value", "clip_adaptive"):
            _check(name, getattr(self, name), getattr(self, name) > 0, "a number above 0")
        _check("lr", self.lr, math.isfinite(self.lr), "a finite number")
        _check("weight_decay", self.weight_decay, 0 <= self.decay < math.inf, "0 or more")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "a fraction below 1")
        _check("average_after", self.average_after, self.average_after >= 0, "0 or more")
        if self.momentum and self.optimiser in ("adamw", "adam"):
            raise OptionError(f"momentum is {self.momentum}, for sgd and rmsprop; {self.optimiser} has betas")
        if self.average_after and self.ema_decay:
            raise OptionError("average_after and ema_decay are two ways to average the weights; give one")
        _check("min_lr_ratio", self.min_lr_ratio, 0 <= self.min_lr_ratio <= 1, "a fraction from 0 to 1")
        _check("ema_decay", self.ema_decay, 0 <= self.ema_decay < 1, "a fraction below 1")
        _check("betas", self.betas, all(0 <= beta < 1 for beta in self.betas), "two fractions below 1")

    @property
    def decay(self) -> float:
        """Decay of matrices."""
        usual = 0.01 if self.optimiser == "adamw" else 0.0
        return usual if self.weight_decay is None else self.weight_decay

    @property
    def warmup_steps(self) -> int:
        """Steps over which the learning rate rises."""
        return min(100, self.steps // 10) if self.warmup is None else self.warmup

    def replace(self, settings: Mapping[str, Any]) -> TrainConfig:
        """Return the configuration with some settings changed.

        Raises:
            OptionError: a name is unknown, or a value makes no sense.
        """
        return from_table(TrainConfig, settings, "train", base=self)

    def differences(self, other: TrainConfig, names: tuple[str, ...]) -> list[str]:
        """Return which of the named settings differ, in words."""
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return [f"{name} {mine} instead of {theirs}" for name, mine, theirs in pairs if mine != theirs]


def _check(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise OptionError(f"{name} is {value}; expected {expected}")
