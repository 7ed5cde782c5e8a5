"""Distributions of forecasts: losses, quantiles and CRPS against closed forms, sums and integrals in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop.data import Series, SeriesConfig
from everloop.errors import DataError, OptionError
from everloop.models import Forecast, Forecaster, ForecasterConfig, load
from everloop.models.forecast import gaussian_crps, log_gaussian, log_negative_binomial
from everloop.models.outputs import Scale, output_of
from everloop.train import evaluate, train

distributions: Any = torch.distributions
MEAN = torch.tensor([0.7, -3.0, 12.5], dtype=torch.float64)
DEVIATION = torch.tensor([0.2, 2.0, 30.0], dtype=torch.float64)
ACTUAL = torch.tensor([0.75, 4.0, -20.0], dtype=torch.float64)
COUNTS = torch.tensor([0.3, 4.0, 250.0], dtype=torch.float64)
DISPERSION = torch.tensor([3.0, 0.2, 0.01], dtype=torch.float64)
CAME = torch.tensor([2.0, 0.0, 290.0], dtype=torch.float64)


def row(numbers: Tensor) -> Tensor:
    return numbers[:, None, None]


def test_crps_of_a_normal_distribution() -> None:
    x = torch.linspace(-400, 400, 400_001, dtype=torch.float64)
    normal = distributions.Normal(MEAN, DEVIATION)
    wanted = [
        torch.trapezoid((distributions.Normal(m, d).cdf(x) - (x >= y).double()).square(), x)
        for m, d, y in zip(MEAN, DEVIATION, ACTUAL, strict=True)
    ]
    # the integral is wrong by half a step at most, where the step of what came is
    torch.testing.assert_close(gaussian_crps(MEAN, DEVIATION, ACTUAL), torch.stack(wanted), atol=2e-3, rtol=0)
    known = gaussian_crps(torch.zeros(1).double(), torch.ones(1).double(), torch.zeros(1).double())
    assert float(known) == pytest.approx((math.sqrt(2) - 1) / math.sqrt(math.pi), rel=1e-12)  # 2 φ(0) - 1/√π
    torch.testing.assert_close(log_gaussian(MEAN, DEVIATION, ACTUAL), normal.log_prob(ACTUAL))
    forecast = Forecast(row(MEAN), spread=row(DEVIATION))
    torch.testing.assert_close(forecast.quantile(0.9)[:, 0, 0], normal.icdf(torch.tensor(0.9, dtype=torch.float64)))


def test_crps_without_deviation_is_the_absolute_error() -> None:
    still = torch.zeros(3, dtype=torch.float64)
    assert gaussian_crps(MEAN, still, ACTUAL).tolist() == (ACTUAL - MEAN).abs().tolist()
    assert gaussian_crps(MEAN, still, MEAN).tolist() == [0, 0, 0]


def test_counts() -> None:
    mixture = distributions.Poisson(distributions.Gamma(1 / DISPERSION, 1 / (DISPERSION * COUNTS)).sample((20_000,)))
    drawn = mixture.sample()  # what a negative binomial distribution is made of
    torch.testing.assert_close(drawn.mean(0), COUNTS, rtol=0.1, atol=0)
    torch.testing.assert_close(drawn.var(0), COUNTS + DISPERSION * COUNTS.square(), rtol=0.2, atol=0)
    k = torch.arange(6000, dtype=torch.float64)[:, None]
    density = log_negative_binomial(COUNTS, DISPERSION, k).exp()
    torch.testing.assert_close(density.sum(0), torch.ones(3).double())
    torch.testing.assert_close((density * k).sum(0), COUNTS)
    torch.testing.assert_close((density * k.square()).sum(0) - COUNTS.square(), COUNTS + DISPERSION * COUNTS.square())
    below = density.cumsum(0)
    forecast = Forecast(row(COUNTS), spread=row(DEVIATION), dispersion=row(DISPERSION))
    wanted = (below - (k >= CAME).double()).square().sum(0)
    torch.testing.assert_close(forecast.crps(row(CAME))[:, 0, 0], wanted)
    # by draws: E|X - y| - E|X - X'| / 2
    by_draws = (drawn - CAME).abs().mean(0) - (drawn[1:] - drawn[:-1]).abs().mean(0) / 2
    torch.testing.assert_close(forecast.crps(row(CAME))[:, 0, 0], by_draws, rtol=0.1, atol=0.02)
    for level in (0.1, 0.5, 0.95):
        found = forecast.quantile(level)[:, 0, 0].long()
        at = torch.arange(3)
        assert bool((below[found, at] >= level).all())
        assert bool((below[(found - 1).clamp_min(0), at] < level)[found > 0].all())
    assert bool(forecast.crps(row(CAME * math.nan)).isnan().all())


def test_crps_of_quantiles_and_numbers() -> None:
    levels = tuple((i + 0.5) / 2000 for i in range(2000))
    normal = distributions.Normal(MEAN[:, None], DEVIATION[:, None])
    quantiles = normal.icdf(torch.tensor(levels).double())
    forecast = Forecast(row(MEAN), quantiles=quantiles[:, None, None], levels=levels)
    closed = gaussian_crps(MEAN, DEVIATION, ACTUAL)
    torch.testing.assert_close(forecast.crps(row(ACTUAL))[:, 0, 0], closed, rtol=1e-3, atol=0)
    three = Forecast(torch.ones(1, 1, 1), quantiles=torch.tensor([0.0, 1, 3]).view(1, 1, 1, 3), levels=(0.1, 0.5, 0.9))
    # of 2: 0.1 · 2, 0.5 · 1, 0.1 · 1
    assert float(three.crps(torch.full((1, 1, 1), 2.0))) == pytest.approx(2 * (0.2 + 0.5 + 0.1) / 3)
    assert [float(end) for end in three.interval(0.8)] == [0, 3]
    assert float(Forecast(torch.ones(1, 1, 1)).crps(torch.full((1, 1, 1), -2.0))) == 3


def test_what_a_forecast_does_not_tell() -> None:
    with pytest.raises(OptionError, match="no distribution; train with output gaussian"):
        Forecast(torch.ones(1, 1, 1)).quantile(0.5)
    three = Forecast(torch.ones(1, 1, 1), quantiles=torch.zeros(1, 1, 1, 3), levels=(0.1, 0.5, 0.9))
    with pytest.raises(OptionError, match=r"at 0\.05; the model predicts those at 0\.1, 0\.5, 0\.9"):
        three.interval(0.9)
    with pytest.raises(OptionError, match="at 1; expected a number between"):
        three.quantile(1.0)


@pytest.mark.parametrize("name", ["point", "gaussian", "quantile", "negative-binomial"])
def test_the_loss_of_an_output(name: str) -> None:
    """What the head says, in scaled numbers, against the distribution in numbers of the data."""
    levels = (0.5, 0.1, 0.9)
    output, scale = output_of(name, levels), Scale(torch.tensor([4.0]).double(), torch.tensor([2.5]).double())
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(5, 3, 1, output.size, dtype=torch.float64, generator=generator)
    base, spread = torch.full((1, 3, 1), 0.3).double(), torch.tensor([0.5, 1.0, 2.0]).double()[:, None].expand(1, 3, 1)
    came = torch.randint(0, 12, (5, 3, 1), generator=generator).double()
    said = output.parameters(raw, base, spread, scale)
    found = output.loss(said, (came - scale.mean) / scale.deviation, scale)
    located = (raw * spread[..., None] + 0.3) * 2.5 + 4
    made = output.forecast(said, scale)
    softplus = torch.nn.functional.softplus(raw[..., -1])
    if name == "point":
        wanted, point = ((located[..., 0] - came) / 2.5).square(), located[..., 0]
    elif name == "gaussian":
        point, deviation = located[..., 0], (softplus + 1e-3) * spread * 2.5
        wanted = -distributions.Normal(point, deviation).log_prob(came) - math.log(2.5)
        torch.testing.assert_close(made.spread, deviation)
    elif name == "quantile":
        point, error = located[..., 0], (came[..., None] - located) / 2.5
        wanted = torch.where(error > 0, torch.tensor(levels) * error, (torch.tensor(levels) - 1) * error).mean(-1)
        assert made.levels == (0.1, 0.5, 0.9)
        torch.testing.assert_close(made.quantiles, located.sort(-1).values)
    else:
        point = (torch.nn.functional.softplus(located[..., 0] / 2.5) + 1e-6) * 2.5
        alpha = softplus + 1e-3
        wanted = -distributions.NegativeBinomial(1 / alpha, probs=point * alpha / (1 + point * alpha)).log_prob(came)
        torch.testing.assert_close(made.spread, (point + alpha * point.square()).sqrt())
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(made.point, point)


def counts(steps: int = 400) -> Tensor:
    t = torch.arange(float(steps))[:, None]
    return torch.poisson(3 + 2.5 * torch.sin(t * 0.5), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scaling", ["train", "window"])
def test_counts_are_learned_and_written(scaling: Any, tmp_path: Path) -> None:
    data = Series(counts(), config=SeriesConfig(split=(0.6, 0.2, 0.2)), context=26, horizon=4)
    config = ForecasterConfig(hidden=8, season=13, output="negative-binomial", scaling=scaling)
    model = Forecaster.of(data, config)
    before = evaluate(model, data, "test").loss
    train(model, data, steps=60, lr=2e-2, batch=32, out=tmp_path / "run", validate=60)
    assert evaluate(model, data, "test").loss < before - 0.05
    said = load(tmp_path / "run").forecast(data.epoch("test", 0, batch=50)[0])
    low, high = said.interval(0.8)
    assert bool((low >= 0).all())
    assert bool((low.frac() == 0).all())
    came = data.epoch("test", 0, batch=50)[0].future
    assert 0.6 < float(((low <= came) & (came <= high)).float().mean()) <= 1


@pytest.mark.parametrize("wrong", [-1.0, 2.5])
def test_what_is_no_count(wrong: float) -> None:
    values = counts()
    values[7] = wrong
    values[3] = math.nan
    data = Series(values, context=26, horizon=4)
    with pytest.raises(DataError, match=f"series 1 is {wrong:g} in step 8; output negative-binomial is for counts"):
        Forecaster.of(data, ForecasterConfig(output="negative-binomial", season=13))


@pytest.mark.parametrize("shift", [-9000.0, -0.75, 0.5, 3000.25])
def test_crps_of_counts_beside_what_is_no_count(shift: float) -> None:
    forecast = Forecast(row(COUNTS), spread=row(DEVIATION), dispersion=row(DISPERSION))
    came = COUNTS + shift
    grid = torch.linspace(-10_000, 10_000, 800_001, dtype=torch.float64)[:, None]  # every 1/40
    steps = (
        log_negative_binomial(COUNTS, DISPERSION, torch.arange(10_001, dtype=torch.float64)[:, None]).exp().cumsum(0)
    )
    middle = (grid[1:] + grid[:-1]) / 2
    below = torch.where(middle < 0, 0.0, steps[middle.floor().long().clamp_min(0).squeeze(-1)])
    wanted = (below - (middle >= came).double()).square().sum(0) / 40
    torch.testing.assert_close(forecast.crps(row(came))[:, 0, 0], wanted, rtol=1e-4, atol=0.03)
