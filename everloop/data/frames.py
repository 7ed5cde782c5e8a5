"""From samples of sound to frames: the logarithm of the power in bands on the mel scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from everloop.data.vtlp import warped
from everloop.errors import DataError, OptionError


@dataclass(frozen=True)
class FrameConfig:
    """How samples become frames."""

    rate: int = 16_000
    """Samples a second."""
    window: float = 0.025
    """Seconds of sound that one frame sees."""
    hop: float = 0.010
    """Seconds from one frame to the next."""
    mels: int = 40
    """Bands of a frame, evenly spaced on the mel scale from 0 to half the sampling rate."""
    dynamic_range: float = math.inf
    """Decibels below the loudest frame; what is quieter is heard as that."""
    per_band: bool = True
    """Whether each band is normalised by itself; otherwise all of them together are."""

    @property
    def samples(self) -> tuple[int, int]:
        """The samples that a frame sees, and those from one frame to the next."""
        return round(self.window * self.rate), round(self.hop * self.rate)

    def count(self, samples: int) -> int:
        """Return how many frames fit into so many samples."""
        width, hop = self.samples
        return max(0, samples - width + hop) // hop


def log_mel(samples: Tensor, config: FrameConfig, *, tempo: float = 1.0, warp: float = 1.0) -> Tensor:
    """Return frames [T, mels] of samples [n] in -1 … 1: the logarithm of the power in each mel band.

    A frame is a Hann window of the samples; the last frame is the last that fits. Bands are triangles that are 1 at
    their centre: Davis and Mermelstein, "Comparison of parametric representations for monosyllabic word recognition",
    1980, on the scale 2595 log10(1 + f / 700).

    Args:
        samples: the recording.
        config: how its samples become frames.
        tempo: how many times further a frame is from the next, so that the recording seems so much faster.
        warp: how many times higher its frequencies seem, as from a shorter vocal tract.

    Raises:
        DataError: the recording is shorter than one window.
    """
    width, hop = config.samples
    if len(samples) < width:
        raise DataError(f"a recording has {len(samples)} samples; expected at least {width}, the window of a frame")
    size, step = 1 << (width - 1).bit_length(), max(1, round(hop * tempo))
    power = torch.fft.rfft(samples.unfold(0, width, step) * _hann(width, samples.dtype), size).abs().square()
    filters = _filters(config, size, samples.dtype) if warp == 1 else mel_filters(config, size, warp).to(samples.dtype)
    bands = power @ filters
    # the mean power of a band where it is loudest, so far down; nothing where there is no limit
    quiet = bands.mean(1).amax() * 10 ** (-config.dynamic_range / 10)
    return torch.log(bands + quiet + 1e-6)


def normalised(frames: Tensor, *, per_band: bool = True) -> Tensor:
    """Return frames [T, mels] with mean 0 and deviation 1 in each band: loudness and microphone no longer matter.

    Not `per_band` they are those of all bands together, and the loudness alone no longer matters: a short recording
    keeps what its few sounds have in common.
    """
    over = frames if per_band else frames.flatten()
    return (frames - over.mean(0)) / (over.std(0, correction=0) + 1e-3)


def mel_filters(config: FrameConfig, size: int, warp: float = 1.0) -> Tensor:
    """Return the weights [size / 2 + 1, mels] of the frequencies of a transform of `size` samples in each mel band.

    The frequencies are warped by `warp` before.
    """
    top = 2595 * math.log10(1 + config.rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, config.mels + 2, dtype=torch.float64) / 2595) - 1)
    heard = torch.arange(size // 2 + 1, dtype=torch.float64)[:, None] * config.rate / size
    frequencies = warped(heard, warp, config.rate / 2)
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    if empty := int((filters.sum(0) == 0).sum()):
        raise OptionError(
            f"{empty} of {config.mels} mel bands lie between two frequencies of a window of {config.window} s at "
            f"{config.rate} Hz; take fewer mels or a longer window"
        )
    return filters


@lru_cache(maxsize=16)
def _filters(config: FrameConfig, size: int, dtype: torch.dtype) -> Tensor:
    return mel_filters(config, size).to(dtype)


@lru_cache(maxsize=16)
def _hann(width: int, dtype: torch.dtype) -> Tensor:
    return torch.hann_window(width, dtype=dtype)
