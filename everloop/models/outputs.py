"""What the numbers of a forecaster's head mean: points, normal distributions, quantiles, counts; each with its loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from everloop.errors import OptionError, unknown
from everloop.models.forecast import Forecast, log_gaussian, log_negative_binomial, pinball

Output = Literal["point", "gaussian", "quantile", "negative-binomial"]
LEAST_DEVIATION = 1e-3  # of scaled numbers
LEAST_MEAN = 1e-6  # of counts


@dataclass(frozen=True)
class Scale:
    """What numbers of the data are: scaled ones times `deviation`, plus `mean`; both [S]."""

    mean: Tensor
    deviation: Tensor

    @property
    def zero(self) -> Tensor:
        """What 0 is when scaled."""
        return -self.mean / self.deviation

    def back(self, scaled: Tensor) -> Tensor:
        """Return scaled numbers [..., S] as numbers of the data."""
        return scaled * self.deviation + self.mean


class Said(ABC):
    """What a forecaster says of each step. The parameters are [H, B, S, size], in scaled numbers."""

    measure: ClassVar[str]  # what its loss is counted in
    endings: tuple[str, ...] = ()  # what is written beside the number itself
    size = 1

    def parameters(self, raw: Tensor, base: Tensor, spread: Tensor | None, scale: Scale) -> Tensor:
        """Return the parameters of what the head says, the difference to `base` in units of `spread` (None: 1)."""
        return torch.add(raw if spread is None else raw * spread[..., None], base[..., None])

    @abstractmethod
    def loss(self, said: Tensor, future: Tensor, scale: Scale) -> Tensor:
        """Return the loss [H, B, S] of parameters, of what came, scaled."""

    def point(self, said: Tensor) -> Tensor:
        """Return the number [H, B, S] in the middle of what is said."""
        return said[..., 0]

    @abstractmethod
    def forecast(self, said: Tensor, scale: Scale) -> Forecast:
        """Return the forecast in numbers of the data."""


class Points(Said):
    """A number, by squared error: the mean."""

    measure = "squared error"

    def loss(self, said: Tensor, future: Tensor, scale: Scale) -> Tensor:
        return (said[..., 0] - future).square()

    def forecast(self, said: Tensor, scale: Scale) -> Forecast:
        return Forecast(scale.back(said[..., 0]))


class Gaussian(Said):
    """Mean and standard deviation of a normal distribution, by its likelihood."""

    measure = "nats"
    endings = ("deviation",)
    size = 2

    def parameters(self, raw: Tensor, base: Tensor, spread: Tensor | None, scale: Scale) -> Tensor:
        mean, deviation = raw[..., 0], F.softplus(raw[..., 1]) + LEAST_DEVIATION
        if spread is not None:
            mean, deviation = mean * spread, deviation * spread
        return torch.stack([mean + base, deviation], -1)

    def loss(self, said: Tensor, future: Tensor, scale: Scale) -> Tensor:
        return -log_gaussian(said[..., 0], said[..., 1], future)

    def forecast(self, said: Tensor, scale: Scale) -> Forecast:
        return Forecast(scale.back(said[..., 0]), spread=said[..., 1] * scale.deviation)


class Quantiles(Said):
    """Quantiles, by pinball loss (Koenker and Bassett, "Regression quantiles", 1978)."""

    measure = "pinball loss"

    def __init__(self, levels: Sequence[float]) -> None:
        self.levels = tuple(levels)
        self.size = len(levels)
        self.rising = tuple(sorted(levels))
        self.endings = tuple(f"{level:g}" for level in self.rising)

    def loss(self, said: Tensor, future: Tensor, scale: Scale) -> Tensor:
        return pinball(said, future, self.levels).mean(-1)

    def point(self, said: Tensor) -> Tensor:
        return said[..., min(range(self.size), key=lambda i: abs(self.levels[i] - 0.5))]

    def forecast(self, said: Tensor, scale: Scale) -> Forecast:
        quantiles = scale.back(said.transpose(-1, -2)).transpose(-1, -2).sort(-1).values
        return Forecast(scale.back(self.point(said)), quantiles=quantiles, levels=self.rising)


class Counts(Said):
    """Mean, above 0, and dispersion of a negative binomial distribution, by the likelihood of the counts themselves.

    Salinas et al., "DeepAR: probabilistic forecasting with autoregressive recurrent networks", 2020.
    """

    measure = "nats"
    endings = ("deviation",)
    size = 2

    def parameters(self, raw: Tensor, base: Tensor, spread: Tensor | None, scale: Scale) -> Tensor:
        mean = (raw[..., 0] if spread is None else raw[..., 0] * spread) + base
        above = F.softplus(mean - scale.zero) + LEAST_MEAN
        return torch.stack([above + scale.zero, F.softplus(raw[..., 1]) + LEAST_DEVIATION], -1)

    def loss(self, said: Tensor, future: Tensor, scale: Scale) -> Tensor:
        counts = scale.back(future).round().clamp_min(0)
        return -log_negative_binomial(self._mean(said, scale), said[..., 1], counts)

    def forecast(self, said: Tensor, scale: Scale) -> Forecast:
        mean, dispersion = self._mean(said, scale), said[..., 1]
        return Forecast(mean, spread=(mean + dispersion * mean.square()).sqrt(), dispersion=dispersion)

    def _mean(self, said: Tensor, scale: Scale) -> Tensor:
        return ((said[..., 0] - scale.zero) * scale.deviation).clamp_min(LEAST_MEAN)


def output_of(name: str, levels: Sequence[float]) -> Said:
    """Return the output of a name; `levels` are those of quantiles.

    Raises:
        OptionError: there is none of this name.
    """
    match name:
        case "point":
            return Points()
        case "gaussian":
            return Gaussian()
        case "quantile":
            return Quantiles(levels)
        case "negative-binomial":
            return Counts()
    raise OptionError(unknown("output", name, get_args(Output)))
