"""Sound files of many formats, which soundfile reads: FLAC, OGG, MP3, and WAV with 24 bits or floating point."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor

from everloop.data.readers.lines import unpacked
from everloop.errors import DataError, UnsupportedError

ENDINGS = (".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff")


def read_sound(path: Path) -> tuple[Tensor, int]:
    """Return the samples of a sound file in -1 … 1, with channels averaged, and how many there are in a second.

    Raises:
        DataError: missing, or no sound file.
        UnsupportedError: soundfile is not installed.
    """
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: without libsndfile, which it loads
        raise UnsupportedError(f"{path}: to read this needs soundfile: pip install 'everloop[audio]'") from None
    try:
        samples, rate = soundfile.read(io.BytesIO(unpacked(path)), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DataError(f"{path} is no sound file that can be read: {error.error_string}") from None
    return torch.from_numpy(samples).mean(1), rate
