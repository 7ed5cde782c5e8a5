"""Recordings: sound files as samples, samples as log-mel frames, recordings with their transcripts as batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from everloop.data.augmentation import AugmentConfig, augmented
from everloop.data.dataset import pass_seed
from everloop.data.datasets.transcribed import Clip, Transcribed
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.frames import FrameConfig, log_mel, normalised
from everloop.data.lazy import Array
from everloop.data.readers.transcripts import read_transcripts
from everloop.data.resampling import Upsampled
from everloop.data.settings import setting
from everloop.data.tokenize.vocabulary import Vocabulary
from everloop.errors import DataError


@dataclass(frozen=True)
class AudioConfig(AugmentConfig):
    """Which recordings are read."""

    audio: Path | None = None
    """Folder of WAV, FLAC, OGG or MP3 files."""
    transcripts: Path | None = setting(None, old="said")
    """Training transcripts, one a line: the name of a sound file, a tab, what is said."""
    valid_transcripts: Path | None = setting(None, old="valid_said")
    """Validation transcripts."""
    seconds: float = math.inf
    """Training recordings that last longer are left out."""
    malformed: Malformed = "stop"
    """What to do with a malformed line."""


class SpeechDataset(Transcribed):
    """Recordings with transcripts. An item is (samples [n], text); a batch has their frames and characters."""

    reads = "sound"
    config: AugmentConfig
    frames: FrameConfig
    upsampled: Mapping[str, Upsampled] = {}  # recordings of lower rates, by the name of what is read

    def notes(self, batch: int) -> list[str]:
        told = [f"{name}: {note}" for name, found in self.upsampled.items() for note in found.notes()]
        return [*super().notes(batch), *told]

    def frames_of(self, source: Tensor) -> Tensor:
        return source if source.dim() == 2 else normalised(log_mel(source, self.frames), per_band=self.frames.per_band)

    def augment(self, items: list[Clip], seed: int) -> list[Clip]:
        """Return recordings with the random changes of the configuration: frames [T, mels] in place of samples."""
        if not self.config.augments:
            return items
        generators = [torch.Generator().manual_seed(pass_seed(seed, i) % 2**62) for i in range(len(items))]
        return [
            (augmented(samples, self.frames, self.config, generator), text)
            for (samples, text), generator in zip(items, generators, strict=True)
        ]


class Recordings(SpeechDataset):
    """Recordings and what is said in them.

    Args:
        parts: by name ("train", "valid", "test") the clips: samples [n] and transcript.
        frames: how samples become frames.
        vocabulary: the characters of transcripts; by default those of all splits.
        seconds: training clips that last longer are left out.
        errors: the malformed lines of the list they were read from.
        augment: the random changes they get in training.
    """

    unit = "recordings"

    def __init__(
        self,
        parts: Mapping[str, Sequence[Clip]],
        frames: FrameConfig,
        vocabulary: Vocabulary | None = None,
        seconds: float = math.inf,
        errors: ErrorPolicy | None = None,
        augment: AugmentConfig | None = None,
    ) -> None:
        changes = {each.name: getattr(augment or AugmentConfig(), each.name) for each in fields(AugmentConfig)}
        super().__init__(AudioConfig(seconds=seconds, **changes), errors)
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
        if config.audio is None or config.transcripts is None:
            raise DataError("no recordings given; name them with --audio FOLDER --transcripts FILE")
        errors = ErrorPolicy(config.malformed)
        lists = {"train": config.transcripts, "valid": config.valid_transcripts}
        upsampled = {name: Upsampled() for name in lists}
        parts = {k: read_transcripts(config.audio, v, frames, errors, upsampled[k]) for k, v in lists.items() if v}
        data = cls(parts, frames, vocabulary, config.seconds, errors)
        data.config, data.upsampled = config, upsampled
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
