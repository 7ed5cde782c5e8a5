"""WAV files."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from everloop.data.readers.lines import unpacked
from everloop.errors import DataError


def read_wav(path: Path, rate: int | None = None) -> Tensor:
    """Return the samples of a WAV file (8, 16 or 32-bit PCM) in -1 … 1; channels are averaged.

    Raises:
        DataError: missing, no such WAV file, or sampled at another rate than `rate`.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such recording")
    try:
        with wave.open(io.BytesIO(unpacked(path)), "rb") as file:
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
