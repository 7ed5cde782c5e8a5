"""WAV files of whole numbers, which Python reads by itself; the others go to soundfile."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from everloop.data.readers.lines import unpacked
from everloop.data.readers.sound import read_sound
from everloop.errors import DataError

DTYPES = {1: "u1", 2: "<i2", 4: "<i4"}  # by bytes of a sample


def read_wav(path: Path) -> tuple[Tensor, int]:
    """Return the samples of a WAV file in -1 … 1, with channels averaged, and how many there are in a second.

    Raises:
        DataError: missing, or no WAV file.
        UnsupportedError: it is not 8, 16 or 32-bit PCM, and soundfile is not installed.
    """
    content = unpacked(path)
    try:
        with wave.open(io.BytesIO(content), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        if str(error).startswith("unknown format"):
            return read_sound(path)
        raise DataError(f"{path} is no WAV file that can be read: {str(error) or 'it ends too early'}") from None
    if width not in DTYPES:
        return read_sound(path)
    samples = np.frombuffer(raw, dtype=np.dtype(DTYPES[width])).astype(np.float64)
    scaled = (samples - 128) / 128 if width == 1 else samples / 2.0 ** (8 * width - 1)
    return torch.from_numpy(scaled.reshape(-1, channels).mean(1).astype(np.float32)), rate
