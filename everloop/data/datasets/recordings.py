"""Recordings: WAV files as samples, samples as log-mel frames, recordings with their transcripts as batches."""

from __future__ import annotations

import math
import wave
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from everloop.data.batching.batch import Batch
from everloop.data.batching.padding import padded
from everloop.data.dataset import SequenceDataset
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.lazy import Array
from everloop.data.readers.lines import numbered, opened
from everloop.data.tokenize.vocabulary import Vocabulary
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

    @property
    def samples(self) -> tuple[int, int]:
        """The samples that a frame sees, and those from one frame to the next."""
        return round(self.window * self.rate), round(self.hop * self.rate)

    def count(self, samples: int) -> int:
        """Return how many frames fit into so many samples."""
        width, hop = self.samples
        return max(0, samples - width + hop) // hop


def log_mel(samples: Tensor, config: FrameConfig) -> Tensor:
    """Return frames [T, mels] of samples [n] in -1 … 1: the logarithm of the power in each mel band.

    A frame is a Hann window of the samples; the last frame is the last that fits. Bands are triangles that are 1 at
    their centre: Davis and Mermelstein, "Comparison of parametric representations for monosyllabic word recognition",
    1980, on the scale 2595 log10(1 + f / 700).

    Raises:
        DataError: the recording is shorter than one window.
    """
    width, hop = config.samples
    if len(samples) < width:
        raise DataError(f"a recording has {len(samples)} samples; expected at least {width}, the window of a frame")
    size = 1 << (width - 1).bit_length()
    power = torch.fft.rfft(samples.unfold(0, width, hop) * _hann(width, samples.dtype), size).abs().square()
    return torch.log(power @ _filters(config, size, samples.dtype) + 1e-6)


def normalised(frames: Tensor) -> Tensor:
    """Return frames [T, mels] with mean 0 and deviation 1 in each band: loudness and microphone no longer matter."""
    return (frames - frames.mean(0)) / (frames.std(0, correction=0) + 1e-3)


def mel_filters(config: FrameConfig, size: int) -> Tensor:
    """Return the weights [size / 2 + 1, mels] of the frequencies of a transform of `size` samples in each mel band."""
    top = 2595 * math.log10(1 + config.rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, config.mels + 2, dtype=torch.float64) / 2595) - 1)
    frequencies = torch.arange(size // 2 + 1, dtype=torch.float64)[:, None] * config.rate / size
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


def read_wav(path: Path, rate: int | None = None) -> Tensor:
    """Return the samples of a WAV file (8, 16 or 32-bit PCM) in -1 … 1; channels are averaged.

    Raises:
        DataError: missing, no such WAV file, or sampled at another rate than `rate`.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such recording")
    try:
        with wave.open(str(path), "rb") as file:
            width, channels, found = file.getsampwidth(), file.getnchannels(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise DataError(f"{path} is no WAV file that can be read: {error or 'it ends too early'}") from None
    if width not in (1, 2, 4):
        raise DataError(f"{path} has samples of {8 * width} bits; expected 8, 16 or 32")
    if rate is not None and found != rate:
        raise DataError(f"{path} is sampled at {found} Hz; expected {rate}: convert it, or give --rate {found}")
    samples = np.frombuffer(raw, dtype=np.dtype({1: "u1", 2: "<i2", 4: "<i4"}[width])).astype(np.float64)
    scaled = (samples - 128) / 128 if width == 1 else samples / 2.0 ** (8 * width - 1)
    return torch.from_numpy(scaled.reshape(-1, channels).mean(1).astype(np.float32))


@dataclass(frozen=True)
class AudioConfig:
    """Which recordings are read."""

    audio: Path | None = None
    """Folder of WAV files."""
    said: Path | None = None
    """Training transcripts, one a line: the name of a WAV file, a tab, what is said."""
    valid_said: Path | None = None
    """Validation transcripts."""
    seconds: float = math.inf
    """Training recordings that last longer are left out."""
    malformed: Malformed = "stop"
    """What to do with a malformed line."""


@dataclass(frozen=True)
class RecordingsBatch(Batch):
    """A batch of recordings. frames: [T, B, mels] of `lengths` [B]; labels: [B, L] of `label_lengths` [B]."""

    frames: Tensor
    lengths: Tensor
    labels: Tensor
    label_lengths: Tensor


Clip = tuple[Tensor, str]


class SpeechDataset(SequenceDataset[Clip, RecordingsBatch]):
    """Recordings with transcripts. An item is (samples [n], text); a batch has their frames and characters."""

    frames: FrameConfig
    vocabulary: Vocabulary

    def collate(self, items: Sequence[Clip]) -> RecordingsBatch:
        rows, lengths = padded([normalised(log_mel(samples, self.frames)) for samples, _ in items])
        labels, label_lengths = padded([self.vocabulary.encode(text, "a transcript").long() for _, text in items])
        return RecordingsBatch(rows, lengths, labels.T.contiguous(), label_lengths)

    def summary(self) -> str:
        return f"{len(self.vocabulary)} characters"


class Recordings(SpeechDataset):
    """Recordings and what is said in them.

    Args:
        parts: by name ("train", "valid", "test") the clips: samples [n] and transcript.
        frames: how samples become frames.
        vocabulary: the characters of transcripts; by default those of all parts.
        seconds: training clips that last longer are left out.
    """

    unit = "recordings"

    def __init__(
        self,
        parts: Mapping[str, Sequence[Clip]],
        frames: FrameConfig,
        vocabulary: Vocabulary | None = None,
        seconds: float = math.inf,
        errors: ErrorPolicy | None = None,
    ) -> None:
        super().__init__(AudioConfig(seconds=seconds), errors)
        if not parts.get("train") and vocabulary is None:
            raise DataError("there is no recording to train on; expected at least one")
        kept: dict[str, Sequence[Clip]] = {name: list(clips) for name, clips in parts.items() if clips}
        if "train" in kept:
            kept["train"] = [clip for clip in kept["train"] if len(clip[0]) <= seconds * frames.rate]
        self.frames, self.items = frames, kept
        self.lengths = {name: np.array([len(samples) for samples, _ in clips]) for name, clips in kept.items()}
        self.vocabulary = vocabulary or Vocabulary.of("".join(text for clips in parts.values() for _, text in clips))

    @classmethod
    def from_config(cls, config: AudioConfig, frames: FrameConfig, vocabulary: Vocabulary | None = None) -> Recordings:
        """Return the recordings that a configuration describes."""
        if config.audio is None or config.said is None:
            raise DataError("no recordings given; name them with --audio FOLDER --said FILE")
        errors = ErrorPolicy(config.malformed)
        lists = {"train": config.said, "valid": config.valid_said}
        parts = {k: read_transcripts(config.audio, v, frames, errors) for k, v in lists.items() if v}
        data = cls(parts, frames, vocabulary, config.seconds, errors)
        data.config = config
        return data

    def content(self) -> Iterator[bytes]:
        yield repr((self.frames, self.vocabulary.symbols)).encode()
        for name, clips in self.items.items():
            for samples, text in clips:
                yield f"{name} {len(samples)} {text}".encode()
                yield samples.numpy().tobytes()

    def steps(self, split: str) -> Array:
        return np.array([self.frames.count(samples) for samples in self.lengths[split]])

    def sizes(self, split: str) -> Sequence[str]:
        seconds = self.lengths[split].sum() / self.frames.rate
        return f"{seconds:,.0f} seconds", f"{sum(len(text) for _, text in self[split]):,} characters"


def read_transcripts(folder: Path, said: Path, frames: FrameConfig, errors: ErrorPolicy) -> list[Clip]:
    """Return the recordings that a list names: one a line, the name of a WAV file in `folder`, a tab, what is said.

    Args:
        folder: where the recordings are.
        said: the list, UTF-8.
        frames: tells their sampling rate, and how long they are at least.
        errors: takes malformed lines, and those whose recording cannot be read.
    """
    clips = []
    with opened(said) as file:
        for number, line in numbered(file, str(said), errors):
            if not line.strip():
                continue
            name, _, text = (part.strip() for part in line.partition("\t"))
            if not (line.count("\t") == 1 and name and text):
                errors.report(said, number, repr(line), "NAME.wav TAB TEXT")
                continue
            if not (folder / name).is_file():
                errors.report(said, number, f"there is no {folder / name}", "the name of a recording")
                continue
            try:
                samples = read_wav(folder / name, frames.rate)
            except DataError as error:
                errors.report(said, number, str(error), "a recording that can be read")
                continue
            if not frames.count(len(samples)):
                least = f"at least {frames.samples[0]}, the window of a frame"
                errors.report(said, number, f"{folder / name} has {len(samples)} samples", least)
                continue
            clips.append((samples, text))
    return clips
