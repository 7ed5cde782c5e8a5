"""Resampling against sines, whose samples at another rate are known, and against a sum written by hand."""

from __future__ import annotations

import math

import pytest
import torch

from everloop.data.resampling import ZEROS, resample

RATES = [(44_100, 8_000), (48_000, 16_000), (8_000, 16_000), (11_025, 8_000), (8_000, 8_001), (97, 100), (113, 100)]


@pytest.mark.parametrize(("old", "new"), RATES)
def test_a_sine_is_the_same_sine(old: int, new: int) -> None:
    pitch = 0.11 * min(old, new)
    samples = torch.sin(2 * math.pi * pitch * torch.arange(3000, dtype=torch.float64) / old)
    found = resample(samples, old, new)
    expected = torch.sin(2 * math.pi * pitch * torch.arange(len(found), dtype=torch.float64) / new)
    edge = math.ceil(ZEROS * max(1, new / old))
    assert len(found) == math.ceil(3000 * new / old)
    torch.testing.assert_close(found[edge:-edge], expected[edge:-edge], rtol=0, atol=1e-3)


def test_what_the_lower_rate_cannot_hold_is_gone() -> None:
    samples = torch.sin(2 * math.pi * 6_000 * torch.arange(16_000, dtype=torch.float64) / 16_000)
    assert resample(samples, 16_000, 8_000)[50:-50].abs().max() < 2e-3


def test_weights_are_those_of_a_sum_by_hand() -> None:
    samples = torch.randn(41, dtype=torch.float64)
    found = resample(samples, 3, 2)
    cutoff, half = 2 / 3, 24
    for i in (0, 1, 13, 27):
        at, total, value = i * 3 / 2, 0.0, 0.0
        for k in range(math.floor(at) - half + 1, math.floor(at) + half + 1):
            x = (k - at) * cutoff
            weight = math.cos(math.pi / 2 * min(1.0, abs(k - at) / half)) ** 2
            weight *= math.sin(math.pi * x) / (math.pi * x) if x else 1.0
            total += weight
            value += weight * float(samples[k]) if 0 <= k < 41 else 0.0
        assert float(found[i]) == pytest.approx(value / total, rel=1e-9)


@pytest.mark.parametrize("size", [0, 1, 2, 7])
def test_short_recordings(size: int) -> None:
    samples = torch.randn(size)
    assert resample(samples, 16_000, 16_000) is samples
    for old, new in RATES:
        found = resample(samples, old, new)
        assert (len(found), found.dtype) == (math.ceil(size * new / old), torch.float32)
        assert bool(found.isfinite().all())


def test_a_part_of_a_recording_is_the_same_part() -> None:
    samples = torch.randn(8_000)
    whole, part = resample(samples, 8_000, 8_100), resample(samples[1_600:4_800], 8_000, 8_100)
    torch.testing.assert_close(whole[1_620 + 20 : 4_860 - 20], part[20 : 3_240 - 20])
