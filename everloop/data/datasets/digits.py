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
    synthetic: Path | None = None
    """Folder of further recordings, named alike, of synthetic voices, which are in training alone."""
    synthetic_share: float = 0.5
    """Fraction of the training strings that synthetic voices say."""

    def __post_init__(self) -> None:
        AugmentConfig.__post_init__(self)
        JoinedConfig.__post_init__(self)
        if not 0 < self.synthetic_share <= 1:
            raise OptionError(f"synthetic_share is {self.synthetic_share}; expected a fraction above 0, up to 1")
        if self.synthetic is None and self.synthetic_share != DigitsConfig.synthetic_share:
            raise OptionError(f"synthetic_share is {self.synthetic_share}, without voices; name them with synthetic")
        if not 0 <= self.pause < math.inf:
            raise OptionError(f"pause is {self.pause} seconds; expected 0 or more")
        if self.trim and not 0 < self.trim[0] <= self.trim[1] < math.inf:
            raise OptionError(f"trim is {self.trim[0]} to {self.trim[1]} dB; expected the tightest first: 10 50")


Voices = Mapping[str, Mapping[str, Sequence[Tensor]]]


class DigitStrings(JoinedStrings, SpeechDataset):
    """Strings of digits of one speaker each, as recordings with transcripts; no recording is in two splits.

    Args:
        recordings: by speaker, and then by digit, the samples of recordings.
        config: how they are divided and joined.
        frames: how samples become frames.
        synthetic: recordings of synthetic voices, in the same way; they say some of the training strings.

    Raises:
        DataError: a digit has too few recordings for its splits, or a speaker none of it.
    """

    config: DigitsConfig

    def __init__(
        self, recordings: Voices, config: DigitsConfig, frames: FrameConfig, synthetic: Voices | None = None
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
        self.synthetic = synthetic or {}
        if both := sorted(recordings.keys() & self.synthetic.keys()):
            raise DataError(f"{', '.join(both)} is a speaker and a synthetic voice; expected other names")
        for speaker, digits in (*sorted(recordings.items()), *self.synthetic.items()):
            if missing := [digit for digit in self.vocabulary.symbols if not digits.get(digit)]:
                raise DataError(f"speaker {speaker} has no recording of {', '.join(missing)}")
        for speaker, digits in sorted(recordings.items()):
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
        upsampled = Upsampled()
        found = _read(config.digits, frames, upsampled, config.speakers)
        synthetic = None if config.synthetic is None else _read(config.synthetic, frames, upsampled)
        data = cls(found, config, frames, synthetic)
        data.upsampled = {"recordings": upsampled}
        return data

    def content(self) -> Iterator[bytes]:
        c = self.config
        joined = (c.min_length, c.max_length, c.split, c.strings, c.held, c.speed, c.gain, c.pause, c.trim, self.frames)
        yield repr(joined).encode()
        if self.synthetic:
            yield repr(c.synthetic_share).encode()
        for speakers in (*self.recordings.values(), self.synthetic):
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
        speakers = [*self._speakers(split, generator).values()]
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

    def _speakers(self, split: str, generator: torch.Generator) -> Voices:
        """Return those of whom one says a string."""
        if split != "train" or not self.synthetic:
            return self.recordings[split]
        is_synthetic = float(torch.rand((), generator=generator)) < self.config.synthetic_share
        return self.synthetic if is_synthetic else self.recordings[split]

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
        told = f"joined from {count:,} recordings", f"spoken by {', '.join(speakers)}"
        if split != "train" or not self.synthetic:
            return told
        return *told, f"{self.config.synthetic_share:.0%} of them by {len(self.synthetic):,} synthetic voices"


def _read(
    folder: Path, frames: FrameConfig, upsampled: Upsampled, speakers: Sequence[str] = ()
) -> dict[str, dict[str, list[Tensor]]]:
    """Return the recordings of a folder by speaker and digit; those of `speakers` alone, if any are named."""
    found: dict[str, dict[str, list[Tensor]]] = {}
    seen = set()
    for path in find_audio(folder):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise DataError(f"{path}: expected a name such as 7_jackson_0.wav (digit, speaker, number)")
        seen.add(match[2])
        if not speakers or match[2] in speakers:
            found.setdefault(match[2], {}).setdefault(match[1], []).append(read_audio(path, frames.rate, upsampled))
    for name in speakers:
        if name not in seen:
            raise DataError(f"{folder}: {unknown('speaker', name, sorted(seen))}")
    return found


def _size(samples: Tensor, speed: float) -> int:
    return max(2, round(len(samples) / speed)) if speed else len(samples)


def _faster(samples: Tensor, speed: float) -> Tensor:
    size = _size(samples, speed)
    return F.interpolate(samples[None, None], size=size, mode="linear", align_corners=True)[0, 0]
