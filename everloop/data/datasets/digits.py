"""Random strings of spoken digits, joined from recordings of single digits."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from everloop.data.augmentation import AugmentConfig
from everloop.data.dataset import SPLITS
from everloop.data.datasets.recordings import SpeechDataset
from everloop.data.datasets.transcribed import Clip, JoinedConfig, JoinedStrings
from everloop.data.frames import FrameConfig
from everloop.data.lazy import Array
from everloop.data.readers.formats import find_audio, read_audio
from everloop.data.resampling import Upsampled
from everloop.data.settings import setting
from everloop.data.tokenize.vocabulary import Vocabulary
from everloop.data.trimming import trimmed
from everloop.errors import DataError, OptionError, unknown

_NAME = re.compile(r"(\d)_(\w+)_(\d+)\.\w+")


@dataclass(frozen=True)
class DigitsConfig(AugmentConfig, JoinedConfig):
    """Which recordings of digits are read, and how they are joined."""

    digits: Path | None = None
    """Folder of recordings named DIGIT_SPEAKER_NUMBER.wav; FLAC, OGG and MP3 are read too."""
    speakers: tuple[str, ...] = setting((), old="speaker")
    """Only the recordings of these speakers; none named: of all."""
    test_speakers: tuple[str, ...] = ()
    """All recordings of these speakers are the test split, and nothing else is; the others' share of it is for
    training."""
    split: tuple[float, float, float] = (0.85, 0.05, 0.1)
    """Fractions of each speaker's recordings of each digit for training, validation and test."""
    speed: float = 0.1
    """In training a digit is played by up to this fraction faster or slower."""
    gain: float = 0.5
    """In training a digit is played by up to this fraction louder or softer."""
    pause: float = 0.0
    """In training up to so many seconds of faint noise are before each digit and after the last: more in some strings,
    louder in some places, so that neither a pause nor a breath means anything."""
    trim: tuple[float, float] | None = None
    """In training a digit loses its beginning and its end where they are quieter than its loudest moment by more than
    from so many to so many decibels (10 50): others cut recordings elsewhere, even within a word."""

    def __post_init__(self) -> None:
        AugmentConfig.__post_init__(self)
        JoinedConfig.__post_init__(self)
        if not 0 <= self.pause < math.inf:
            raise OptionError(f"pause is {self.pause} seconds; expected 0 or more")
        if self.trim and not 0 < self.trim[0] <= self.trim[1] < math.inf:
            raise OptionError(f"trim is {self.trim[0]} to {self.trim[1]} dB; expected the tightest first: 10 50")


class DigitStrings(JoinedStrings, SpeechDataset):
    """Strings of digits of one speaker each, as recordings with transcripts; no recording is in two splits.

    Args:
        recordings: by speaker, and then by digit, the samples of recordings.
        config: how they are divided and joined.
        frames: how samples become frames.

    Raises:
        DataError: a digit has too few recordings for its splits, or a speaker none of it.
    """

    config: DigitsConfig

    def __init__(
        self, recordings: Mapping[str, Mapping[str, Sequence[Tensor]]], config: DigitsConfig, frames: FrameConfig
    ) -> None:
        super().__init__(config)
        for name in config.test_speakers:
            if name not in recordings:
                raise DataError(unknown("speaker", name, sorted(recordings)))
        if not recordings.keys() - {*config.test_speakers}:
            raise DataError("all speakers are test_speakers; expected at least one to train on")
        self.frames = frames
        self.vocabulary = Vocabulary(sorted({digit for digits in recordings.values() for digit in digits}))
        self.recordings: dict[str, dict[str, dict[str, list[Tensor]]]] = {name: {} for name in SPLITS}
        generator = torch.Generator().manual_seed(0)
        for speaker, digits in sorted(recordings.items()):
            if missing := [digit for digit in self.vocabulary.symbols if not digits.get(digit)]:
                raise DataError(f"speaker {speaker} has no recording of {', '.join(missing)}")
            fractions = self._fractions(speaker)
            for digit, found in sorted(digits.items()):
                order = torch.randperm(len(found), generator=generator).tolist()
                ends = [round(len(found) * sum(fractions[: i + 1])) for i in range(3)]
                for name, start, end, fraction in zip(SPLITS, [0, *ends], ends, fractions, strict=False):
                    if fraction and start == end:
                        came = f"digit {digit} of {speaker} has {len(found)} recordings"
                        raise DataError(f"{came}, none is left for its {name} split")
                    if fraction:
                        some = [found[i] for i in order[start:end]]
                        self.recordings[name].setdefault(speaker, {})[digit] = some
        self.used = [name for name in SPLITS if self.recordings[name]]
        self.items = {name: self.items_of_pass(name) for name in self.used}

    def _fractions(self, speaker: str) -> tuple[float, float, float]:
        """Return how much of a speaker's recordings each split has."""
        train, valid, test = self.config.split
        if not self.config.test_speakers:
            return train, valid, test
        return (0.0, 0.0, 1.0) if speaker in self.config.test_speakers else (train + test, valid, 0.0)

    @classmethod
    def from_config(cls, config: DigitsConfig, frames: FrameConfig) -> DigitStrings:
        """Return the strings that a configuration describes."""
        if config.digits is None:
            raise DataError("no recordings given; name a folder with --digits FOLDER")
        found: dict[str, dict[str, list[Tensor]]] = {}
        speakers, upsampled = set(), Upsampled()
        for path in find_audio(config.digits):
            match = _NAME.fullmatch(path.name)
            if match is None:
                raise DataError(f"{path}: expected a name such as 7_jackson_0.wav (digit, speaker, number)")
            speakers.add(match[2])
            if not config.speakers or match[2] in config.speakers:
                found.setdefault(match[2], {}).setdefault(match[1], []).append(read_audio(path, frames.rate, upsampled))
        for name in config.speakers:
            if name not in speakers:
                raise DataError(f"{config.digits}: {unknown('speaker', name, sorted(speakers))}")
        data = cls(found, config, frames)
        data.upsampled = {"recordings": upsampled}
        return data

    def content(self) -> Iterator[bytes]:
        c = self.config
        joined = (c.min_length, c.max_length, c.split, c.strings, c.held, c.speed, c.gain, c.pause, c.trim, self.frames)
        yield repr(joined).encode()
        for speakers in self.recordings.values():
            for speaker, digits in speakers.items():
                yield speaker.encode()
                for digit, found in digits.items():
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
        speakers = [*self.recordings[split].values()]
        # one speaker takes no random number, so that his strings are what they were before there were several
        speaker = speakers[int(torch.randint(len(speakers), (), generator=generator)) if len(speakers) > 1 else 0]
        pieces = []
        longest = 0.0
        if split == "train" and self.config.pause:
            longest = self.config.pause * self.frames.rate * float(torch.rand((), generator=generator))
        for digit in text:
            found = speaker[digit]
            samples = found[int(torch.randint(len(found), (), generator=generator))]
            if split == "train" and self.config.trim:
                tight, loose = self.config.trim
                limit = tight + float(torch.rand((), generator=generator)) * (loose - tight)
                samples = trimmed(samples, limit, self.frames.rate)
            speed, gain = (2 * torch.rand(2, generator=generator) - 1).tolist()
            change = (1 + speed * self.config.speed, 1 + gain * self.config.gain) if split == "train" else (0.0, 1.0)
            pieces.append((samples, *change))
        if longest:
            pauses = [self._pause(longest, samples, generator) for samples, *_ in (*pieces, pieces[-1])]
            pieces = [piece for pair in zip(pauses, pieces, strict=False) for piece in pair] + pauses[-1:]
        return text, pieces

    def _pause(self, longest: float, samples: Tensor, generator: torch.Generator) -> tuple[Tensor, float, float]:
        """Return a pause of up to `longest` samples, whose noise is 15 to 60 dB below other samples."""
        size, level = torch.rand(2, generator=generator).tolist()
        noise = torch.randn(int(longest * size), generator=generator)
        return noise * samples.square().mean().sqrt() * 10 ** -(0.75 + 2.25 * level), 0.0, 1.0

    def steps(self, split: str) -> Array:
        plans = [self._plan(split, number)[1] for number in self.numbers(split)]
        samples = [sum(_size(samples, speed) for samples, speed, _ in pieces) for pieces in plans]
        return np.array([self.frames.count(n) for n in samples])

    def sizes(self, split: str) -> Sequence[str]:
        speakers = self.recordings[split]
        count = sum(len(found) for digits in speakers.values() for found in digits.values())
        return f"joined from {count:,} recordings", f"spoken by {', '.join(speakers)}"


def _size(samples: Tensor, speed: float) -> int:
    return max(2, round(len(samples) / speed)) if speed else len(samples)


def _faster(samples: Tensor, speed: float) -> Tensor:
    size = _size(samples, speed)
    return F.interpolate(samples[None, None], size=size, mode="linear", align_corners=True)[0, 0]
