"""Gradients after clipping, against the formulas of each kind, and their norms before and after."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from everloop.train import Event, Stepped, TrainConfig, train
from everloop.train.clipping import clip
from tests.train.small import BASE, TEXT, small_model

USUAL: dict[str, Any] = {"clip_norm": math.inf}


def layer_with(value: float) -> nn.Linear:
    layer = nn.Linear(3, 3)
    for p in layer.parameters():
        p.grad = torch.full_like(p, value)
    return layer


def gradient(layer: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in layer.parameters() if p.grad is not None])


def test_by_norm() -> None:
    layer = layer_with(2.0)
    assert clip(layer, TrainConfig(clip_norm=1.5)) == pytest.approx((2 * math.sqrt(12), 1.5), rel=1e-5)
    assert float(gradient(layer).norm()) == pytest.approx(1.5, rel=1e-4)


@pytest.mark.parametrize("value", [0.1, 1.0 / math.sqrt(12), 1.001 / math.sqrt(12)])
def test_at_the_bound_and_below_it_a_gradient_is_what_pytorch_leaves(value: float) -> None:
    layer, expected = layer_with(value), layer_with(value)
    before, after = clip(layer, TrainConfig(clip_norm=1.0))
    nn.utils.clip_grad_norm_(expected.parameters(), 1.0)
    assert torch.equal(gradient(layer), gradient(expected))
    assert before == pytest.approx(value * math.sqrt(12))
    assert after == pytest.approx(min(before, 1.0), rel=1e-5)


def test_by_value() -> None:
    layer = layer_with(2.0)
    assert clip(layer, TrainConfig(clip_value=0.25, **USUAL)) == pytest.approx(
        (2 * math.sqrt(12), 0.25 * math.sqrt(12))
    )
    assert gradient(layer).tolist() == [0.25] * 12


def test_by_value_comes_before_norm() -> None:
    layer = layer_with(2.0)
    before, after = clip(layer, TrainConfig(clip_value=0.25, clip_norm=0.5))
    assert (before, after) == pytest.approx((2 * math.sqrt(12), 0.5), rel=1e-5)
    assert float(gradient(layer).norm()) == pytest.approx(0.5, rel=1e-4)


def test_inf_never_clips() -> None:
    layer = layer_with(1e6)
    before, after = clip(layer, TrainConfig(clip_norm=math.inf))
    assert before == after == pytest.approx(1e6 * math.sqrt(12))
    assert gradient(layer).tolist() == [1e6] * 12


def test_adaptive_is_the_formula_of_each_unit() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Embedding(3, 2))
    model.register_parameter("many", nn.Parameter(torch.randn(2, 3, 4)))
    model.register_parameter("zero", nn.Parameter(torch.zeros(3, 2)))
    expected = []
    for p in model.parameters():
        p.grad = torch.randn_like(p) * torch.logspace(-3, 1, len(p)).view(-1, *[1] * (p.ndim - 1))
        units = [slice(None)] if p.ndim == 1 else range(len(p))
        wanted = p.grad.clone()
        for unit in units:
            weight, size = max(float(p.detach()[unit].norm()), 1e-3), float(p.grad[unit].norm())
            if size / weight > 0.02:
                wanted[unit] = p.grad[unit] * (0.02 * weight / size)
        expected.append(wanted)
    sizes = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    before, after = clip(model, TrainConfig(clip_adaptive=0.02, **USUAL))
    for p, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, wanted)
    assert before == pytest.approx(float(sizes))
    assert after == pytest.approx(float(gradient(model).norm()))


def test_a_gradient_of_zero_stays_so() -> None:
    layer = layer_with(0.0)
    assert clip(layer, TrainConfig(clip_adaptive=0.01)) == (0.0, 0.0)
    assert gradient(layer).tolist() == [0.0] * 12


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("how", [{}, {"clip_value": 0.1}, {"clip_adaptive": 0.1}])
def test_the_norm_before_shows_what_clipping_would_hide(bad: float, how: dict[str, Any]) -> None:
    layer = layer_with(1.0)
    assert layer.bias.grad is not None
    layer.bias.grad[1] = bad
    assert not math.isfinite(clip(layer, TrainConfig(**how))[0])


def test_training_tells_norms_and_how_often_it_clips() -> None:
    free: list[Event] = []
    train(small_model(), TEXT, BASE, log_every=1, clip_norm=math.inf, report=free.append)
    norms = [event.norm for event in free if isinstance(event, Stepped)]
    assert all(event.clipped == 0 and event.norm == event.clipped_norm for event in free if isinstance(event, Stepped))
    bound = sorted(norms)[len(norms) // 2]
    held: list[Event] = []
    train(small_model(), TEXT, BASE, lr=1e-9, clip_norm=bound, report=held.append)
    steps = [event for event in held if isinstance(event, Stepped)]
    assert all(0 <= event.clipped <= 1 for event in steps)
    for event in steps:
        assert event.clipped_norm == pytest.approx(min(event.norm, bound), rel=1e-4)
    every: list[Event] = []
    train(small_model(), TEXT, BASE, lr=1e-9, log_every=1, clip_norm=bound, report=every.append)
    single = [event.clipped for event in every if isinstance(event, Stepped)]
    assert {0.0, 1.0} >= set(single)
    assert [event.clipped for event in steps] == [pytest.approx(sum(single[i : i + 4]) / 4) for i in (0, 4, 8)]
