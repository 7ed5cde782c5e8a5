"""Mixtures of bivariate Gaussians: where a pen may go next."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SIZE = 6  # numbers of one component: weight, means, deviations, correlation


@dataclass(frozen=True)
class Mixture:
    """M Gaussians over the plane: log-weights [..., M], means and log-deviations [..., M, 2], correlations [..., M].

    Graves, "Generating sequences with recurrent neural networks", 2013, equations 18 to 25.
    """

    log_weights: Tensor
    means: Tensor
    log_deviations: Tensor
    correlations: Tensor

    @classmethod
    def of(cls, numbers: Tensor) -> Mixture:
        """Return the mixtures that numbers [..., 6 M] of a head stand for."""
        weights, x, y, sx, sy, r = numbers.chunk(SIZE, -1)
        # at least exp(-5) of a drawing: a density must not grow without bound on ways that repeat
        deviations = torch.stack([sx, sy], -1).clamp(-5, 7)
        return cls(weights.log_softmax(-1), torch.stack([x, y], -1), deviations, 0.99 * torch.tanh(r))

    def log_density(self, points: Tensor) -> Tensor:
        """Return the log-density [...] at points [..., 2]."""
        z = (points[..., None, :] - self.means) * torch.exp(-self.log_deviations)
        free = 1 - self.correlations**2
        square = (z**2).sum(-1) - 2 * self.correlations * z[..., 0] * z[..., 1]
        log_norm = math.log(2 * math.pi) + self.log_deviations.sum(-1) + 0.5 * torch.log(free)
        total: Tensor = (self.log_weights - log_norm - square / (2 * free)).logsumexp(-1)
        return total

    def draw(self, temperature: float, generator: torch.Generator) -> Tensor:
        """Return one point [..., 2] of each mixture; temperature 0 gives the mean of the weightiest Gaussian.

        A temperature divides the log-weights and multiplies the variances (Ha and Eck, "A neural representation of
        sketch drawings", ICLR 2018).
        """
        if temperature == 0:
            chosen = self.log_weights.argmax(-1)
        else:
            weights = F.softmax(self.log_weights / temperature, -1)
            chosen = torch.multinomial(weights.flatten(0, -2), 1, generator=generator).view(weights.shape[:-1])
        at = chosen[..., None, None].expand(*chosen.shape, 1, 2)
        means, deviations = self.means.gather(-2, at)[..., 0, :], self.log_deviations.gather(-2, at)[..., 0, :].exp()
        r = self.correlations.gather(-1, chosen[..., None])[..., 0]
        a, b = torch.randn((2, *chosen.shape), generator=generator, dtype=means.dtype)
        noise = torch.stack([a, r * a + torch.sqrt(1 - r**2) * b], -1)
        return means + math.sqrt(temperature) * deviations * noise
