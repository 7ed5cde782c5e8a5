"""Attention and the mixture of Gaussians against formulas written out one number at a time."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch

from everloop.errors import OptionError
from everloop.models.attention import Attention
from everloop.models.mixture import Mixture


@pytest.mark.parametrize("scoring", ["multiplicative", "additive"])
@torch.no_grad()
def test_weights_and_means_are_those_of_the_formula(scoring: Literal["multiplicative", "additive"]) -> None:
    attention = Attention(5, 3, scoring, size=4 if scoring == "additive" else None).double()
    values, queries = torch.randn(6, 2, 3).double(), torch.randn(4, 2, 5).double()
    lengths = torch.tensor([6, 2])
    means, weights = attention(queries, attention.remember(values, lengths))
    for t in range(4):
        for b in range(2):
            scores = []
            for s in range(int(lengths[b])):
                q, m = queries[t, b], values[s, b]
                if scoring == "multiplicative":
                    scores.append(float(q @ attention.key.weight @ m))
                else:
                    inner = attention.query.weight @ q + attention.key.weight @ m + attention.key.bias
                    scores.append(float(attention.v @ torch.tanh(inner)))
            total = sum(math.exp(score) for score in scores)
            expected = [math.exp(score) / total for score in scores]
            torch.testing.assert_close(
                weights[t, b],
                torch.tensor([*expected, *[0.0] * (6 - len(expected))], dtype=torch.float64),
                rtol=1e-10,
                atol=1e-12,
            )
            mean = sum(w * values[s, b] for s, w in enumerate(expected))
            torch.testing.assert_close(means[t, b], mean, rtol=1e-10, atol=1e-12)


def test_what_lies_behind_the_end_gets_no_weight_and_no_gradient() -> None:
    attention = Attention(4, 3)
    values = torch.randn(5, 2, 3, requires_grad=True)
    means, weights = attention(torch.randn(2, 2, 4), attention.remember(values, torch.tensor([5, 3])))
    means.sum().backward()
    assert float(weights[:, 1, 3:].detach().abs().sum()) == 0
    assert values.grad is not None
    assert float(values.grad[3:, 1].abs().sum()) == 0
    assert float(values.grad[3:, 0].abs().sum()) > 0


def test_an_unknown_scoring_is_named() -> None:
    with pytest.raises(OptionError, match="did you mean 'additive'"):
        Attention(4, 3, "aditive")  # type: ignore[arg-type]


@torch.no_grad()
def test_density_is_that_of_the_textbook() -> None:
    mixture = Mixture.of(torch.randn(3, 6 * 4).double())
    points = torch.randn(3, 2).double()
    found = mixture.log_density(points)
    for n in range(3):
        density = 0.0
        for m in range(4):
            weight = math.exp(mixture.log_weights[n, m])
            sx, sy = (math.exp(s) for s in mixture.log_deviations[n, m].tolist())
            r = float(mixture.correlations[n, m])
            # the general formula with the inverse and the determinant of the covariance, worked out by torch
            covariance = torch.tensor([[sx * sx, r * sx * sy], [r * sx * sy, sy * sy]], dtype=torch.float64)
            away = points[n] - mixture.means[n, m]
            square = float(away @ torch.linalg.inv(covariance) @ away)
            density += weight * math.exp(-square / 2) / (2 * math.pi * math.sqrt(float(torch.linalg.det(covariance))))
        assert float(found[n]) == pytest.approx(math.log(density), rel=1e-9)


@torch.no_grad()
def test_density_adds_up_to_one() -> None:
    numbers = torch.randn(1, 6 * 3).double() * 0.3
    side = torch.linspace(-12, 12, 961).double()
    grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).view(-1, 2)
    density = Mixture.of(numbers.expand(len(grid), -1)).log_density(grid).exp()
    assert float(density.sum()) * (24 / 960) ** 2 == pytest.approx(1, abs=1e-4)


@torch.no_grad()
def test_draws_have_the_moments_of_the_mixture() -> None:
    numbers = torch.tensor(
        [[1.0, 2.0], [2.0, -1.0], [0.5, 0.0], [-1.0, 0.3], [0.2, -0.4], [0.8, -1.2]], dtype=torch.float64
    )
    mixture = Mixture.of(numbers.flatten().expand(200_000, -1))
    drawn = mixture.draw(1.0, torch.Generator().manual_seed(0))
    weights = mixture.log_weights[0].exp()
    mean = weights @ mixture.means[0]
    spread = torch.zeros(2, 2).double()
    for w, m, s, r in zip(
        weights, mixture.means[0], mixture.log_deviations[0].exp(), mixture.correlations[0], strict=True
    ):
        off = r * s[0] * s[1]
        inner = torch.stack([torch.stack([s[0] ** 2, off]), torch.stack([off, s[1] ** 2])])
        spread += w * (inner + torch.outer(m - mean, m - mean))
    # 200,000 draws: the error of a mean is its deviation / 447
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=0.02)
    torch.testing.assert_close(torch.cov(drawn.T), spread, rtol=0.02, atol=0.02)


@torch.no_grad()
def test_temperature_zero_is_the_mean_of_the_weightiest() -> None:
    mixture = Mixture.of(torch.randn(5, 6 * 3).double())
    drawn = mixture.draw(0.0, torch.Generator().manual_seed(0))
    best = mixture.log_weights.argmax(-1)
    torch.testing.assert_close(drawn, mixture.means[torch.arange(5), best])
