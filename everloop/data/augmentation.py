"""Which random changes recordings get in training, and a recording with them, as frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from everloop.data.frames import FrameConfig, log_mel, normalised
from everloop.data.noise import with_noise
from everloop.data.resampling import resample
from everloop.data.spec_augment import masked
from everloop.errors import OptionError

STEPS = 100  # a sampling rate changes by whole hundredths


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes of recordings in training; without options there are none."""

    speed_perturbation: float = 0.0
    """Recordings: in training each is played by up to this fraction faster or slower, which changes its pitch too."""
    tempo_perturbation: float = 0.0
    """Recordings: in training each is by up to this fraction faster or slower at the same pitch."""
    pitch_shift: float = 0.0
    """Recordings: in training all frequencies of each are by up to so many semitones higher or lower, in the same
    time."""
    vtlp: float = 0.0
    """Recordings: in training the frequencies of each are warped by up to this fraction, as by a vocal tract of
    another length."""
    noise: tuple[float, float] | None = None
    """Recordings: in training each has white noise, from so many to so many decibels below it (10 30)."""
    time_masks: int = 0
    """Recordings: in training so many stretches of frames of each are hidden (SpecAugment)."""
    time_mask_width: int = 10
    """Recordings: frames that one stretch hides at most."""
    frequency_masks: int = 0
    """Recordings: in training so many groups of bands of each are hidden (SpecAugment)."""
    frequency_mask_width: int = 8
    """Recordings: bands that one group hides at most."""

    def __post_init__(self) -> None:
        for name in ("speed_perturbation", "tempo_perturbation", "vtlp"):
            if not 0 <= (value := getattr(self, name)) <= 0.5:
                raise OptionError(f"{name} is {value}; expected a fraction from 0 to 0.5")
        if not 0 <= self.pitch_shift <= 12:
            raise OptionError(f"pitch_shift is {self.pitch_shift} semitones; expected 0 to 12")
        for name in ("time_masks", "time_mask_width", "frequency_masks", "frequency_mask_width"):
            if (value := getattr(self, name)) < 0:
                raise OptionError(f"{name} is {value}; expected 0 or more")
        for masks, width in (("time_masks", "time_mask_width"), ("frequency_masks", "frequency_mask_width")):
            if not getattr(self, masks) and getattr(self, width) != getattr(AugmentConfig, width):
                raise OptionError(f"{width} is {getattr(self, width)}, and {masks} is 0; expected 1 or more with it")
        if self.noise and not self.noise[0] <= self.noise[1]:
            raise OptionError(f"noise is {self.noise[0]} to {self.noise[1]} dB; expected the loudest first: 10 30")

    @property
    def augments(self) -> bool:
        """Whether anything changes."""
        sizes = (self.speed_perturbation, self.tempo_perturbation, self.pitch_shift, self.vtlp)
        return any(sizes) or self.noise is not None or self.time_masks > 0 or self.frequency_masks > 0


def augmented(samples: Tensor, frames: FrameConfig, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Return the normalised frames [T, mels] of a recording [n] with random changes.

    Speed: Ko, Peddinti, Povey and Khudanpur, "Audio augmentation for speech recognition", Interspeech 2015. A pitch is
    shifted by speed and the inverse tempo; a tempo is the distance from one frame to the next.

    Args:
        samples: the recording.
        frames: how samples become frames.
        config: how large the changes are at most.
        generator: the random numbers.
    """
    speed, tempo, pitch, warp, snr = (2 * torch.rand(5, generator=generator, dtype=torch.float64) - 1).tolist()
    raised = 2 ** (pitch * config.pitch_shift / 12)
    rate = max(1, round(STEPS * (1 + speed * config.speed_perturbation) * raised))
    played = resample(samples, rate, STEPS)
    if not frames.count(len(played)):
        played = samples  # too short for a frame
    if config.noise is not None:
        low, high = config.noise
        played = with_noise(played, low + (snr + 1) / 2 * (high - low), generator)
    faster = (1 + tempo * config.tempo_perturbation) / raised
    heard = log_mel(played, frames, tempo=faster, warp=1 + warp * config.vtlp)
    found = normalised(heard, per_band=frames.per_band)
    found = masked(found, config.time_masks, config.time_mask_width, 0, generator)
    return masked(found, config.frequency_masks, config.frequency_mask_width, 1, generator)
