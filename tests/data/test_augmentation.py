"""Random changes of recordings: what they do to a sine, to noise and to frames; and that training alone has them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from everloop.data import FrameConfig, Recordings
from everloop.data.augmentation import AugmentConfig, augmented
from everloop.data.frames import log_mel, mel_filters, normalised
from everloop.data.noise import with_noise
from everloop.data.resampling import resample
from everloop.data.spec_augment import masked
from everloop.data.vtlp import warped
from everloop.errors import OptionError

FRAMES = FrameConfig(rate=8000, mels=20)
ALL: dict[str, Any] = {
    "speed_perturbation": 0.2, "tempo_perturbation": 0.2, "pitch_shift": 3.0, "vtlp": 0.2, "noise": (0.0, 20.0),
    "time_masks": 2, "frequency_masks": 2,
}  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sine(pitch: float, size: int = 8000) -> Tensor:
    return torch.sin(2 * math.pi * pitch * torch.arange(size) / 8000)


def peak(samples: Tensor) -> float:
    """Return the loudest frequency of samples at 8 kHz."""
    size = 1 << 16
    return int(torch.fft.rfft(samples * torch.hann_window(len(samples)), size).abs().argmax()) * 8000 / size


def test_speed_changes_pitch_and_length() -> None:
    faster = resample(sine(440), 125, 100)
    assert len(faster) == 6400
    assert peak(faster) == pytest.approx(550, abs=0.5)


def test_tempo_changes_the_number_of_frames_and_nothing_in_them() -> None:
    samples = torch.randn(4000)
    faster = log_mel(samples, FRAMES, tempo=1.5)
    assert len(faster) == (4000 - 200) // 120 + 1
    for t in (0, 1, len(faster) - 1):
        torch.testing.assert_close(faster[t : t + 1], log_mel(samples[120 * t : 120 * t + 200], FRAMES))


@pytest.mark.parametrize("warp", [0.8, 0.95, 1.0, 1.1, 1.25])
def test_the_warp_of_a_vocal_tract(warp: float) -> None:
    """Jaitly and Hinton, section 3: f · warp below the bend, above it a line to the end of the axis."""
    top = 4000.0
    for f in (0.0, 100.0, 1500.0, 1999.0, 2500.0, 3100.0, 3999.0, 4000.0):
        bend = 2400.0 * min(warp, 1.0) / warp
        line = top - (top - 2400.0 * min(warp, 1.0)) / (top - bend) * (top - f)
        expected = f * warp if f <= bend else line
        assert float(warped(torch.tensor(f, dtype=torch.float64), warp, top)) == pytest.approx(expected)
    axis = warped(torch.linspace(0, top, 400), warp, top)
    assert bool((axis.diff() > 0).all())
    assert float(axis[-1]) == pytest.approx(top)


def test_a_warped_tone_is_the_tone_that_the_warp_says() -> None:
    frames = replace(FRAMES, window=0.032)
    heard, meant = log_mel(sine(1000), frames, warp=1.25), log_mel(sine(1250), frames)
    assert (
        int(heard.mean(0).argmax()) == int(meant.mean(0).argmax()) != int(log_mel(sine(1000), frames).mean(0).argmax())
    )
    assert mel_filters(frames, 256, 1.0).equal(mel_filters(frames, 256))


@pytest.mark.parametrize("snr", [0.0, 10.0, 30.0])
def test_noise_has_the_power_that_is_asked_for(snr: float) -> None:
    samples = sine(440, 40_000) * 0.3
    noise = with_noise(samples, snr, generator()) - samples
    ratio = 10 * math.log10(float(samples.square().mean() / noise.square().mean()))
    assert ratio == pytest.approx(snr, abs=0.2)
    power = torch.fft.rfft(noise).abs().square()
    low, high = power[:10_000].mean(), power[10_000:].mean()
    assert float(low / high) == pytest.approx(1, abs=0.1)
    assert with_noise(torch.zeros(5), snr, generator()).equal(torch.zeros(5))


@pytest.mark.parametrize("dim", [0, 1])
def test_masks_have_their_sizes_and_places(dim: int) -> None:
    frames = torch.ones(30, 20)
    widths, places = set(), set()
    for seed in range(200):
        found = masked(frames, 1, 4, dim, generator(seed))
        hidden = (found.transpose(0, dim) == 0).all(1).nonzero()[:, 0].tolist()
        assert int((found == 0).sum()) == len(hidden) * frames.shape[1 - dim]
        assert hidden == list(range(hidden[0], hidden[0] + len(hidden))) if hidden else True
        widths.add(len(hidden))
        places |= set(hidden)
    assert widths == {0, 1, 2, 3, 4}
    assert places == set(range(frames.shape[dim]))
    assert bool(frames.all())


def test_masks_of_few_frames() -> None:
    assert masked(torch.ones(1, 3), 5, 9, 0, generator(1)).shape == (1, 3)
    assert masked(torch.ones(0, 3), 5, 9, 0, generator(1)).shape == (0, 3)
    assert masked(torch.ones(4, 3), 0, 9, 0, generator(1)).equal(torch.ones(4, 3))


def test_without_options_frames_are_as_ever() -> None:
    samples = torch.randn(4000)
    found = augmented(samples, FRAMES, AugmentConfig(), generator())
    torch.testing.assert_close(found, normalised(log_mel(samples, FRAMES)), rtol=0, atol=0)
    assert not AugmentConfig().augments


def test_a_shifted_pitch_keeps_its_time() -> None:
    config = AugmentConfig(pitch_shift=4)
    plain = len(log_mel(sine(600), FRAMES))
    loudest = set()
    for seed in range(30):
        found = augmented(sine(600), FRAMES, config, generator(seed))
        assert abs(len(found) - plain) <= 4  # a window more or less at the end, and whole samples from frame to frame
        loudest.add(len(found))
    assert len(loudest) > 1


@pytest.mark.parametrize("name", sorted(ALL))
def test_each_option_changes_training_and_nothing_else(name: str) -> None:
    clips = [(torch.randn(4000 + 100 * i), "ab") for i in range(6)]
    config = AugmentConfig(**{name: ALL[name]})
    assert config.augments
    plain, data = (Recordings({"train": clips, "valid": clips}, FRAMES, augment=a) for a in (None, config))
    before, batch = plain.epoch("train", 0, batch=3)[0], data.epoch("train", 0, batch=3)[0]
    assert not (batch.frames.shape == before.frames.shape and batch.frames.equal(before.frames))
    assert batch.labels.equal(before.labels)
    for one, other in zip(plain.epoch("valid", 0, batch=3), data.epoch("valid", 0, batch=3), strict=True):
        assert one.frames.equal(other.frames)


def test_the_same_pass_has_the_same_changes_and_another_has_others() -> None:
    clips = [(torch.randn(4000), "ab")] * 6
    data = Recordings({"train": clips, "valid": clips}, FRAMES, augment=AugmentConfig(**ALL))
    first, again, later, seeded = (
        data.epoch("train", n, batch=6, seed=seed)[0].frames for n, seed in ((0, 1), (0, 1), (1, 1), (0, 2))
    )
    assert first.equal(again)
    assert not any(first.shape == other.shape and first.equal(other) for other in (later, seeded))
    rows = first.transpose(0, 1)
    assert not any(rows[0].equal(row) for row in rows[1:]), "each recording of a batch has changes of its own"


def test_a_recording_that_would_be_too_short_stays_as_it_is() -> None:
    samples = torch.randn(205)
    for seed in range(20):
        assert len(augmented(samples, FRAMES, AugmentConfig(speed_perturbation=0.5), generator(seed))) >= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speed_perturbation": 0.6}, r"speed_perturbation is 0\.6; expected a fraction from 0 to 0\.5"),
        ({"vtlp": -0.1}, "vtlp is -0.1"),
        ({"tempo_perturbation": math.nan}, "tempo_perturbation is nan"),
        ({"pitch_shift": 13.0}, r"pitch_shift is 13\.0 semitones; expected 0 to 12"),
        ({"noise": (30.0, 10.0)}, "expected the loudest first"),
        ({"time_masks": -1}, "time_masks is -1; expected 0 or more"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        AugmentConfig(**settings)
