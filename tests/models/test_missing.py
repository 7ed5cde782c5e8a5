"""Missing numbers: filled, decayed, masked, and never counted; against loops over single numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from everloop.data import Series, SeriesConfig
from everloop.models import Forecaster, ForecasterConfig
from everloop.models.missing import Decay, filled
from everloop.train import evaluate

NAN = math.nan


def holes(*shape: int, part: float = 0.4, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator)
    values[torch.rand(*shape, generator=generator) < part] = NAN
    return values


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 3), (7, 5, 2), (40, 3, 4)])
def test_filled_and_decayed(shape: tuple[int, int, int]) -> None:
    numbers, decay = holes(*shape), Decay(shape[2])
    with torch.no_grad():
        decay.weight.copy_(torch.linspace(-0.5, 1.5, shape[2]))
        decay.bias.fill_(0.25)
    found = filled(numbers)
    wanted_values, wanted_read = np.zeros(shape), np.zeros(shape)
    for b in range(shape[1]):
        for n in range(shape[2]):
            last, since = 0.0, 0
            weight = float(decay.weight[n].detach())
            for t in range(shape[0]):
                value = float(numbers[t, b, n])
                if math.isnan(value):
                    since += 1
                    wanted_read[t, b, n] = last * math.exp(-max(0.0, weight * since + 0.25))
                else:
                    last, since = value, 0
                    wanted_read[t, b, n] = value
                wanted_values[t, b, n] = last
    np.testing.assert_allclose(found.values.numpy(), wanted_values, atol=1e-7)
    np.testing.assert_allclose(decay(found).detach().numpy(), wanted_read, atol=1e-6)
    assert bool((found.seen == ~numbers.isnan()).all())
    known = numbers.double().nan_to_num()
    count = (~numbers.isnan()).sum(0).clamp_min(1)
    torch.testing.assert_close(found.mean()[0].double(), known.sum(0) / count)


def test_numbers_without_a_gap_stay_as_they_are() -> None:
    numbers = torch.randn(4, 2, 3)
    assert filled(numbers).values is numbers


SPLIT = SeriesConfig(split=(0.6, 0.2, 0.2))
SIZES = {"context": 8, "horizon": 3}


def wave(gaps: float) -> Series:
    t = torch.arange(200.0)[:, None]
    values = 50 + 7 * torch.sin(t * torch.tensor([0.7, 0.3]))
    values[torch.rand(200, 2, generator=torch.Generator().manual_seed(1)) < gaps] = NAN
    return Series(values, values[:, :1].roll(1), config=SPLIT, **SIZES)  # type: ignore[arg-type]


@pytest.mark.parametrize("output", ["point", "gaussian", "quantile"])
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("scaling", ["train", "window"])
@pytest.mark.parametrize("around", ["zero", "last", "mean", "seasonal"])
def test_missing_numbers_are_not_counted(output: str, together: bool, scaling: str, around: str) -> None:
    data = wave(0.3)
    config = ForecasterConfig(
        hidden=8, output=output, together=together, scaling=scaling, around=around, season=4  # type: ignore[arg-type]
    )  # fmt: skip
    model = Forecaster.of(data, config).train()
    batch = data.window(torch.tensor([20, 40, 60]))
    loss = model.loss(batch)
    assert loss.count == int((~batch.future.isnan()).sum()) < batch.future.numel()
    torch.autograd.backward(loss.mean)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
    # what is missing in the future has no influence: the same losses, one by one, add up
    model.eval()
    with torch.no_grad():
        parts = [model.loss(data.window(torch.tensor([start]))) for start in (20, 40, 60)]
        assert sum(float(part.total) for part in parts) == pytest.approx(float(model.loss(batch).total), rel=1e-5)
    score = evaluate(model, data, "test")
    assert math.isfinite(score.loss)
    assert score.means["mae_last"] < 3


def test_the_model_sees_which_numbers_are_missing() -> None:
    model = Forecaster.of(wave(0.3), ForecasterConfig(hidden=8, dropout=0.0)).eval()
    past, extra, ahead = torch.full((8, 1, 2), 50.0), torch.full((8, 1, 1), 50.0), torch.zeros(3, 1, 0)
    whole = model(past, extra, ahead)
    past[4] = NAN  # filled with the same number
    assert not torch.allclose(model(past, extra, ahead), whole)
    plain = Forecaster.of(wave(0.3), ForecasterConfig(hidden=8, missing="fill")).eval()
    assert plain.decay is None
    assert torch.equal(plain(past, extra, ahead), plain(torch.full((8, 1, 2), 50.0), extra, ahead))


def test_windows_of_other_sizes_are_the_same_to_a_model_that_scales_them() -> None:
    data = wave(0.0)
    config = ForecasterConfig(hidden=8, scaling="window", around="mean")
    model = Forecaster.of(data, config).eval()
    batch = data.window(torch.tensor([30]))
    extra = batch.extra
    first = (model(batch.past, extra, batch.ahead) * model.scale[:2, None] + model.mean[:2, None])[..., 0]
    second = (model(3 * batch.past - 40, extra, batch.ahead) * model.scale[:2, None] + model.mean[:2, None])[..., 0]
    torch.testing.assert_close(second, 3 * first - 40, atol=1e-3, rtol=1e-4)


def test_a_column_without_a_number() -> None:
    values = torch.randn(100, 2)
    values[:, 1] = NAN
    data = Series(values, config=SPLIT, **SIZES)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="series 2 has no number in the training split"):
        Forecaster.of(data)
