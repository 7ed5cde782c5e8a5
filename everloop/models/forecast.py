"""A forecast: numbers, or distributions of them, with their quantiles, intervals and scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor
from torch.distributions import NegativeBinomial

from everloop.errors import OptionError

AT_ONCE = 1 << 22  # probabilities of counts in memory


@dataclass(frozen=True)
class Forecast:
    """A forecast.

    Args:
        point: numbers, means or medians [H, B, S].
        spread: standard deviations [H, B, S], or None.
        quantiles: [H, B, S, Q], rising, or None.
        levels: the probabilities of the quantiles, rising.
        dispersion: α of counts [H, B, S], whose variance is mean + α mean², or None.
    """

    point: Tensor
    spread: Tensor | None = None
    quantiles: Tensor | None = None
    levels: tuple[float, ...] = ()
    dispersion: Tensor | None = None

    @property
    def is_point(self) -> bool:
        """Whether it is one number a step, without a distribution."""
        return self.spread is None and self.quantiles is None

    def quantile(self, level: float) -> Tensor:
        """Return the quantile [H, B, S] of a probability.

        Raises:
            OptionError: it is no probability, the forecast has no distribution, or other quantiles only.
        """
        if not 0 < level < 1:
            raise OptionError(f"a quantile is asked for at {level:g}; expected a number between 0 and 1")
        if self.quantiles is not None:
            near = min(range(len(self.levels)), key=lambda i: abs(self.levels[i] - level))
            if abs(self.levels[near] - level) > 1e-6:
                has = ", ".join(f"{one:g}" for one in self.levels)
                raise OptionError(f"a quantile is asked for at {level:g}; the model predicts those at {has}")
            return self.quantiles[..., near]
        if self.spread is None:
            raise OptionError(
                "the forecast has no distribution; train with output gaussian, quantile or negative-binomial"
            )
        if self.dispersion is not None:
            return _counts_quantile(self.point, self.dispersion, level)
        return self.point + self.spread * NormalDist().inv_cdf(level)

    def interval(self, coverage: float) -> tuple[Tensor, Tensor]:
        """Return the ends of the central interval that the number lies in with this probability, two of [H, B, S].

        Raises:
            OptionError: the forecast does not tell it.
        """
        return self.quantile((1 - coverage) / 2), self.quantile((1 + coverage) / 2)

    def crps(self, actual: Tensor) -> Tensor:
        """Return the continuous ranked probability score [H, B, S], in the unit of the numbers: less is better.

        It is ∫ (F(x) - 1{x ≥ y})² dx for the distribution F and what came, y (Gneiting and Raftery, "Strictly proper
        scoring rules, prediction, and estimation", 2007). Of a number alone it is the absolute error; of a normal
        distribution a closed form; of counts a sum over all of them; of quantiles twice the mean of their pinball
        losses, the integral where the levels lie evenly between 0 and 1 (Gneiting and Ranjan, "Comparing density
        forecasts using threshold- and quantile-weighted scoring rules", 2011).
        """
        if self.quantiles is not None:
            return 2 * pinball(self.quantiles, actual, self.levels).mean(-1)
        if self.spread is None:
            return (actual - self.point).abs()
        if self.dispersion is not None:
            return _counts_crps(self.point, self.dispersion, actual)
        return gaussian_crps(self.point, self.spread, actual)


def gaussian_crps(mean: Tensor, deviation: Tensor, actual: Tensor) -> Tensor:
    """Return the CRPS of normal distributions: σ (z (2 Φ(z) - 1) + 2 φ(z) - 1/√π), where z = (y - μ) / σ.

    Of a deviation of 0, as a series that never changes gives, it is the absolute error.
    """
    z = (actual - mean) / deviation
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    spread = deviation * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))
    return torch.where(deviation == 0, (actual - mean).abs(), spread)


def pinball(quantiles: Tensor, actual: Tensor, levels: Sequence[float]) -> Tensor:
    """Return the pinball loss [..., Q] of quantiles [..., Q] at these levels, of what came [...]."""
    wanted = torch.tensor(levels, device=quantiles.device, dtype=quantiles.dtype)
    error = actual[..., None] - quantiles
    return torch.maximum(wanted * error, (wanted - 1) * error)


def log_gaussian(mean: Tensor, deviation: Tensor, number: Tensor) -> Tensor:
    """Return the logarithms of the densities of normal distributions."""
    return -((number - mean) / deviation).square() / 2 - deviation.log() - math.log(2 * math.pi) / 2


def log_negative_binomial(mean: Tensor, dispersion: Tensor, count: Tensor) -> Tensor:
    """Return the log-probabilities of counts with these means and the variance mean + dispersion · mean²."""
    made: Any = NegativeBinomial
    found: Tensor = made(1 / dispersion, logits=mean.log() + dispersion.log(), validate_args=False).log_prob(count)
    return found


def _counts_crps(mean: Tensor, dispersion: Tensor, actual: Tensor) -> Tensor:
    """Return ∫ (F(x) - 1{x ≥ y})² dx, where F is a step at each count; NaN where y is."""
    found = []
    for m, a, y in _chunks(mean, dispersion, actual):
        below = _cumulative(m, a, float(y.nan_to_num().max()))
        reached = (torch.arange(1, below.shape[1] + 1, device=y.device) - y[:, None]).clamp(0, 1)  # of [k, k + 1)
        terms = (1 - reached) * below.square() + reached * (1 - below).square()
        found.append(torch.where(y.isnan(), y, terms.sum(1) + (-y).clamp(min=0)))
    return torch.cat(found).to(mean.dtype).view_as(mean)


def _counts_quantile(mean: Tensor, dispersion: Tensor, level: float) -> Tensor:
    """Return the smallest count that is not exceeded with this probability."""
    found = [(_cumulative(m, a) < level).sum(1) for m, a in _chunks(mean, dispersion)]
    return torch.cat(found).to(mean.dtype).view_as(mean)


def _cumulative(mean: Tensor, dispersion: Tensor, least: float = 0.0) -> Tensor:
    """Return the probability [n, K] of at most 0, 1, … K - 1, up to `least` and to where nothing is left."""
    end = max(float(_end(mean, dispersion).max()), least)
    counts = torch.arange(int(end) + 1, device=mean.device, dtype=mean.dtype)  # lgamma of integers has 32 bits
    return log_negative_binomial(mean[:, None], dispersion[:, None], counts).exp().cumsum(1).clamp(max=1)


def _end(mean: Tensor, dispersion: Tensor) -> Tensor:
    return mean + 20 * (mean + dispersion * mean.square()).sqrt() + 20


def _chunks(mean: Tensor, dispersion: Tensor, *more: Tensor) -> list[tuple[Tensor, ...]]:
    """Return the numbers, flat and in float64, in pieces whose probabilities fit into memory."""
    parts = [part.double().flatten() for part in (mean, dispersion, *more)]
    largest = max(float(part.nan_to_num().max()) for part in (_end(*parts[:2]), *parts[2:]))
    rows = max(1, int(AT_ONCE / largest))
    return list(zip(*(torch.split(part, rows) for part in parts), strict=True))
