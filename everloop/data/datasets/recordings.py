"""Recordings: sound files as samples, samples as log-mel frames, recordings with their transcripts as batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everloop.data.augmentation import AugmentConfig, augmented
from everloop.data.dataset import pass_seed, with_held_out
from everloop.data.datasets.transcribed import Clip, Transcribed
from everloop.data.error_policy import ErrorPolicy, Malformed
from everloop.data.frames import FrameConfig, log_mel, normalised
from everloop.data.in_memory import recordings
from everloop.data.lazy import Array
from everloop.data.readers.file_lists import COLUMN_ADVICE, FileColumns
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
    """Training transcripts, one a line: the name of a sound file, a tab, what is said; or a table (CSV, TSV with a
    header, JSON lines, Parquet)."""
    valid_transcripts: Path | None = setting(None, old="valid_said")
    """Validation transcripts; without them, `hold_out` says how many."""
    hold_out: float = setting(0.1, absent=0.0)
    """Fraction of the training recordings, drawn at random, that is kept for validation where no list is given."""
    file_column: str = "file"
    """Transcripts in a table: the column that names the file."""
    text_column: str = "text"
    """Transcripts in a table: the column that holds what is said."""
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
        errors = ErrorPolicy(config.malformed, column_advice=COLUMN_ADVICE, header_advice="")
        lists = {"train": config.transcripts, "valid": config.valid_transcripts}
        upsampled = {name: Upsampled() for name in lists}
        columns = FileColumns(config.file_column, config.text_column)
        parts = {
            name: read_transcripts(config.audio, path, frames, errors, upsampled[name], columns)
            for name, path in lists.items()
            if path
        }
        data = cls(with_held_out(parts, (config.hold_out,), _take), frames, vocabulary, config.seconds, errors)
        data.config, data.upsampled = config, upsampled
        data.held_out = data.items.keys() - parts.keys()
        return data

    @classmethod
    def of(
        cls,
        train: Any,
        valid: Any = None,
        test: Any = None,
        frames: FrameConfig | None = None,
        config: AudioConfig | None = None,
        audio: str = "audio",
    ) -> Recordings:
        """Return recordings that are in memory, each split in any of the forms that `everloop.data.in_memory` reads.

        Args:
            train, valid, test: pairs (recordings, texts) of lists or arrays, where a recording is samples [n] at the
                rate of `frames`; frames of pandas or polars; datasets of PyTorch, or of Hugging Face, which tell rates.
                What validation lacks is taken from training, as `hold_out` of the configuration says.
            frames: how samples become frames.
            config: the random changes in training; `text_column` is the column of the texts.
            audio: the column of the recordings.

        Raises:
            DataError: a split is none of these, or lacks something.
        """
        frames, config = frames or FrameConfig(), config or AudioConfig()
        given = {"train": train, "valid": valid, "test": test}
        parts = {
            name: recordings(some, audio, config.text_column, frames.rate)
            for name, some in given.items()
            if some is not None
        }
        return cls(with_held_out(parts, (config.hold_out,), _take), frames, seconds=config.seconds, augment=config)

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


def _take(clips: Sequence[Clip], indices: Array) -> Sequence[Clip]:
    return [clips[i] for i in indices]
