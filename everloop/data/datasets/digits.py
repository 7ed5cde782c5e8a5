"""Random strings of spoken digits, joined from recordings of single digits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from everloop.data.dataset import SPLITS
from everloop.data.datasets.recordings import SpeechDataset
from everloop.data.datasets.transcribed import Clip, JoinedConfig, JoinedStrings
from everloop.data.frames import FrameConfig
from everloop.data.lazy import Array
from everloop.data.readers.formats import read_audio
from everloop.data.settings import setting
from everloop.data.tokenize.vocabulary import Vocabulary
from everloop.errors import DataError, unknown

_NAME = re.compile(r"(\d)_(\w+)_(\d+)\.wav")


@dataclass(frozen=True)
class DigitsConfig(JoinedConfig):
    """Which recordings of digits are read, and how they are joined."""

    digits: Path | None = None
    """Folder of recordings named DIGIT_SPEAKER_NUMBER.wav."""
    speakers: tuple[str, ...] = setting((), old="speaker")
    """Only the recordings of these speakers; none named: of all."""
    split: tuple[float, float, float] = (0.85, 0.05, 0.1)
    """Fractions of the recordings of each digit for training, validation and test."""
    speed: float = 0.1
    """In training a digit is played by up to this fraction faster or slower."""
    gain: float = 0.5
    """In training a digit is played by up to this fraction louder or softer."""


class DigitStrings(JoinedStrings, SpeechDataset):
    """Strings of digits as recordings with transcripts; the splits have no recording in common.

    Args:
        recordings: by digit, the samples of its recordings.
        config: how they are divided and joined.
        frames: how samples become frames.

    Raises:
        DataError: a digit has too few recordings for its splits.
    """

    config: DigitsConfig

    def __init__(self, recordings: dict[str, list[Tensor]], config: DigitsConfig, frames: FrameConfig) -> None:
        super().__init__(config)
        self.frames, self.vocabulary = frames, Vocabulary(sorted(recordings))
        self.recordings: dict[str, dict[str, list[Tensor]]] = {name: {} for name in SPLITS}
        generator = torch.Generator().manual_seed(0)
        for digit, found in sorted(recordings.items()):
            order = torch.randperm(len(found), generator=generator).tolist()
            ends = [round(len(found) * sum(config.split[: i + 1])) for i in range(3)]
            for name, start, end, fraction in zip(SPLITS, [0, *ends], ends, config.split, strict=False):
                if fraction and start == end:
                    raise DataError(f"digit {digit} has {len(found)} recordings, none is left for its {name} split")
                self.recordings[name][digit] = [found[i] for i in order[start:end]]
        self.used = [name for name, fraction in zip(SPLITS, config.split, strict=True) if fraction]
        self.items = {name: self.items_of_pass(name) for name in self.used}

    @classmethod
    def from_config(cls, config: DigitsConfig, frames: FrameConfig) -> DigitStrings:
        """Return the strings that a configuration describes."""
        if config.digits is None:
            raise DataError("no recordings given; name a folder with --digits FOLDER")
        found: dict[str, list[Tensor]] = {}
        speakers = set()
        for path in sorted(config.digits.glob("*.wav")):
            match = _NAME.fullmatch(path.name)
            if match is None:
                raise DataError(f"{path}: expected a name such as 7_jackson_0.wav (digit, speaker, number)")
            speakers.add(match[2])
            if not config.speakers or match[2] in config.speakers:
                found.setdefault(match[1], []).append(read_audio(path, frames.rate))
        if not speakers:
            raise DataError(f"folder {config.digits} has no WAV file")
        for name in config.speakers:
            if name not in speakers:
                raise DataError(f"{config.digits}: {unknown('speaker', name, sorted(speakers))}")
        return cls(found, config, frames)

    def content(self) -> Iterator[bytes]:
        c = self.config
        yield repr((c.min_length, c.max_length, c.split, c.strings, c.held, c.speed, c.gain, self.frames)).encode()
        for recordings in self.recordings.values():
            for digit, found in recordings.items():
                yield digit.encode()
                yield from (samples.numpy().tobytes() for samples in found)

    def clip(self, split: str, number: int) -> Clip:
        text, pieces = self._plan(split, number)
        return torch.cat(
            [_faster(samples, speed) * gain if speed else samples for samples, speed, gain in pieces]
        ), text

    def _plan(self, split: str, number: int) -> tuple[str, list[tuple[Tensor, float, float]]]:
        """Return the digits of a string, and for each a recording, how much faster (0: as it is) and louder."""
        generator = self.generator(number)
        digits = torch.randint(len(self.vocabulary), (self.length(generator),), generator=generator).tolist()
        text = "".join(self.vocabulary.symbols[digit] for digit in digits)
        pieces = []
        for digit in text:
            found = self.recordings[split][digit]
            samples = found[int(torch.randint(len(found), (), generator=generator))]
            speed, gain = (2 * torch.rand(2, generator=generator) - 1).tolist()
            change = (1 + speed * self.config.speed, 1 + gain * self.config.gain) if split == "train" else (0.0, 1.0)
            pieces.append((samples, *change))
        return text, pieces

    def steps(self, split: str) -> Array:
        plans = [self._plan(split, number)[1] for number in self.numbers(split)]
        samples = [sum(_size(samples, speed) for samples, speed, _ in pieces) for pieces in plans]
        return np.array([self.frames.count(n) for n in samples])

    def sizes(self, split: str) -> Sequence[str]:
        return (f"joined from {sum(map(len, self.recordings[split].values())):,} recordings",)


def _size(samples: Tensor, speed: float) -> int:
    return max(2, round(len(samples) / speed)) if speed else len(samples)


def _faster(samples: Tensor, speed: float) -> Tensor:
    size = _size(samples, speed)
    return F.interpolate(samples[None, None], size=size, mode="linear", align_corners=True)[0, 0]
