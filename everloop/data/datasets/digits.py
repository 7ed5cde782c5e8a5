"""Random strings of spoken digits, joined from recordings of single digits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from everloop.data.batching.buckets import padding_fraction
from everloop.data.batching.padding import Batches
from everloop.data.datasets.recordings import Clip, FrameConfig, RecordingsBatch, clips_of, read_wav
from everloop.data.settings import setting
from everloop.data.tokenize.vocabulary import Vocabulary
from everloop.errors import DataError, OptionError, unknown

_NAME = re.compile(r"(\d)_(\w+)_(\d+)\.wav")


@dataclass(frozen=True)
class DigitsConfig:
    """Which recordings of digits are read, and how they are joined."""

    digits: Path | None = None
    """Folder of recordings named DIGIT_SPEAKER_NUMBER.wav."""
    speaker: str | None = None
    """Only the recordings of this speaker."""
    min_length: int = setting(3, old="shortest")
    """Digits in the shortest string."""
    max_length: int = setting(7, old="longest")
    """Digits in the longest string."""
    split: tuple[float, float, float] = (0.85, 0.05, 0.1)
    """Shares of the recordings of each digit for training, validation and test."""
    strings: int = 1024
    """Strings in a pass over the training part; each pass has new ones."""
    held: int = 256
    """Strings in the validation part and in the test part; these are always the same."""
    speed: float = 0.1
    """In training a digit is played up to this share faster or slower."""
    gain: float = 0.5
    """In training a digit is played up to this share louder or softer."""


class DigitStrings:
    """Strings of digits as recordings with transcripts; the parts have no recording in common.

    Args:
        recordings: by digit, the samples of its recordings.
        config: how they are divided and joined.
        frames: how samples become frames.

    Raises:
        DataError: a digit has too few recordings for its parts.
    """

    def __init__(self, recordings: dict[str, list[Tensor]], config: DigitsConfig, frames: FrameConfig) -> None:
        if not 1 <= config.min_length <= config.max_length:
            raise OptionError(
                f"strings have {config.min_length} to {config.max_length} digits; expected at least 1, and more"
            )
        self.config, self.frames = config, frames
        self.vocabulary = Vocabulary(sorted(recordings))
        names = ("train", "valid", "test")
        self.parts: dict[str, dict[str, list[Tensor]]] = {name: {} for name in names}
        chance = torch.Generator().manual_seed(0)
        for digit, found in sorted(recordings.items()):
            order = torch.randperm(len(found), generator=chance).tolist()
            ends = [round(len(found) * sum(config.split[: i + 1])) for i in range(3)]
            for name, start, end, share in zip(names, [0, *ends], ends, config.split, strict=False):
                if share and start == end:
                    raise DataError(f"digit {digit} has {len(found)} recordings, none is left for its {name} part")
                self.parts[name][digit] = [found[i] for i in order[start:end]]

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
            if config.speaker in (None, match[2]):
                found.setdefault(match[1], []).append(read_wav(path, frames.rate))
        if not speakers:
            raise DataError(f"folder {config.digits} has no WAV file")
        if not found:
            raise DataError(f"{config.digits}: {unknown('speaker', str(config.speaker), sorted(speakers))}")
        return cls(found, config, frames)

    @property
    def splits(self) -> tuple[str, ...]:
        """The parts that there are."""
        return tuple(name for name, share in zip(self.parts, self.config.split, strict=True) if share)

    @property
    def fingerprint(self) -> str:
        """A short name of exactly these recordings and settings."""
        c = self.config
        shape = (c.min_length, c.max_length, c.split, c.strings, c.held, c.speed, c.gain, self.frames)
        digest = hashlib.sha256(repr(shape).encode())
        for part in self.parts.values():
            for digit, found in part.items():
                digest.update(digit.encode())
                for samples in found:
                    digest.update(samples.numpy().tobytes())
        return digest.hexdigest()[:16]

    def epoch(self, split: str, number: int, *, batch: int, length: int = 0, seed: int = 0) -> Batches[RecordingsBatch]:
        """Return the batches of one pass: in training new random strings, otherwise always the same."""
        if split not in self.splits:
            raise OptionError(unknown("part of the data", split, self.splits))
        numbers = self._numbers(split, number, seed)

        def make(group: list[int]) -> RecordingsBatch:
            return clips_of([self.clip(split, numbers[i]) for i in group], self.frames, self.vocabulary)

        return Batches(_groups(len(numbers), batch), make)

    def _numbers(self, split: str, number: int = 0, seed: int = 0) -> range:
        """Return the numbers of the strings of one pass."""
        if split == "train":
            start = (seed * 1_000_003 + number) * 1_000_003
            return range(start, start + self.config.strings)
        start = -1 - self.splits.index(split) * 1_000_003
        return range(start, start - self.config.held, -1)

    def clip(self, split: str, number: int) -> Clip:
        """Return (samples, digits) of string `number`; its number alone says what it is."""
        text, pieces = self._plan(split, number)
        return torch.cat(
            [_faster(samples, speed) * gain if speed else samples for samples, speed, gain in pieces]
        ), text

    def _plan(self, split: str, number: int) -> tuple[str, list[tuple[Tensor, float, float]]]:
        """Return the digits of a string, and for each a recording, how much faster (0: as it is) and louder."""
        chance = torch.Generator().manual_seed(number % 2**62)
        count = int(torch.randint(self.config.min_length, self.config.max_length + 1, (), generator=chance))
        digits = torch.randint(len(self.vocabulary), (count,), generator=chance).tolist()
        text = "".join(self.vocabulary.symbols[digit] for digit in digits)
        pieces = []
        for digit in text:
            found = self.parts[split][digit]
            samples = found[int(torch.randint(len(found), (), generator=chance))]
            speed, gain = (2 * torch.rand(2, generator=chance) - 1).tolist()
            change = (1 + speed * self.config.speed, 1 + gain * self.config.gain) if split == "train" else (0.0, 1.0)
            pieces.append((samples, *change))
        return text, pieces

    def test_clips(self, split: str = "test") -> Sequence[Clip]:
        """Return the strings of the validation or test part."""
        return [self.clip(split, number) for number in self._numbers(split)]

    def notes(self, batch: int) -> list[str]:
        """Return what one should know of the data: how many recordings each part is joined from, padding."""
        lines = []
        for name in self.splits:
            numbers, count = self._numbers(name), sum(map(len, self.parts[name].values()))
            plans = [self._plan(name, number)[1] for number in numbers]
            sizes = [sum(_size(samples, speed) for samples, speed, _ in pieces) for pieces in plans]
            share = padding_fraction(_groups(len(numbers), batch), [self.frames.count(size) for size in sizes])
            lines.append(f"{name}: {len(numbers):,} strings, joined from {count:,} recordings, padding {share:.1%}")
        return lines

    def __repr__(self) -> str:
        counts = {name: sum(map(len, part.values())) for name, part in self.parts.items()}
        return f"DigitStrings({', '.join(f'{name} {n:,}' for name, n in counts.items())} recordings)"


def _groups(count: int, batch: int) -> list[list[int]]:
    return [list(range(i, min(i + batch, count))) for i in range(0, count, batch)]


def _size(samples: Tensor, speed: float) -> int:
    return max(2, round(len(samples) / speed)) if speed else len(samples)


def _faster(samples: Tensor, speed: float) -> Tensor:
    size = _size(samples, speed)
    return F.interpolate(samples[None, None], size=size, mode="linear", align_corners=True)[0, 0]
