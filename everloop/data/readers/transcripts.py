"""Recordings with transcripts: a list of the names of sound files and what is said in each."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from everloop.data.error_policy import ErrorPolicy
from everloop.data.frames import FrameConfig
from everloop.data.readers.file_lists import FILE_COLUMNS, FileColumns, named_texts
from everloop.data.readers.formats import read_audio
from everloop.data.resampling import Upsampled
from everloop.errors import DataError


def read_transcripts(
    folder: Path,
    path: Path,
    frames: FrameConfig,
    errors: ErrorPolicy,
    upsampled: Upsampled | None = None,
    columns: FileColumns = FILE_COLUMNS,
) -> list[tuple[Tensor, str]]:
    """Return the recordings that a list names: one a line, the name of a file in `folder`, a tab, what is said.

    Args:
        folder: where the recordings are.
        path: the list, UTF-8, or a table.
        frames: tells their sampling rate, and how long they are at least.
        errors: takes malformed lines, and those whose recording cannot be read.
        upsampled: counts recordings of a lower rate.
        columns: those of a table.
    """
    clips = []
    for number, name, text in named_texts(path, columns, "NAME.wav TAB TEXT", errors):
        if not (folder / name).is_file():
            errors.report(path, number, f"there is no {folder / name}", "the name of a recording")
            continue
        try:
            samples = read_audio(folder / name, frames.rate, upsampled)
        except DataError as error:
            errors.report(path, number, str(error), "a recording that can be read")
            continue
        if not frames.count(len(samples)):
            least = f"at least {frames.samples[0]}, the window of a frame"
            errors.report(path, number, f"{folder / name} has {len(samples)} samples", least)
            continue
        clips.append((samples, text))
    return clips
