"""Films as folders of PNG or JPEG frames, beside a table with a label for each frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from everloop.data.readers.lines import numbered, opened
from everloop.data.readers.pictures import most_channels, picture_files, same_size
from everloop.data.readers.source import Fields, Record, Source
from everloop.errors import DataError

TABLE = "labels.tsv"


def tagged(source: Source, fields: Fields) -> Iterator[Record]:
    """Yield the films that the table of a folder names, each with the labels of its frames.

    A line of the table is FILM TAB LABEL LABEL …, where FILM is a folder of frames beside the table.
    """
    table = source.by_path() / TABLE
    if not table.is_file():
        raise DataError(
            f"{source.place} has no {TABLE}; expected lines FILM TAB LABEL LABEL … for its folders of frames"
        )
    channels = fields.channels or most_channels(picture_files(table.parent))
    with opened(table) as file:
        for number, line in numbered(file, str(table), source.errors):
            name, tab, labels = line.partition("\t")
            folder = table.parent / name.strip()
            if not (tab and name.strip() and labels.strip()):
                if line.strip():
                    source.errors.report(table, number, repr(line), "FILM TAB LABEL LABEL …")
            elif not folder.is_dir():
                source.errors.report(table, number, f"there is no folder {folder}", "a folder of frames")
            else:
                frames = film(folder, fields.size, channels)
                if len(frames) != len(labels.split()):
                    came = f"{len(frames)} frames and {len(labels.split())} labels"
                    source.errors.report(table, number, came, "equally many")
                else:
                    yield Record(frames, labels.split(), line=number)


def film(folder: Path, size: tuple[int, ...] = (), channels: int | None = None) -> Tensor:
    """Return the frames [T, height, width, channels] of a folder, by name; numbers in names count as numbers.

    Args:
        folder: where the frames are.
        size: height and width to which they are scaled; none: they must all have the same.
        channels: how many they get; None: all 3 if one of them has colours, else 1.
    """
    return torch.stack([picture for _, picture in same_size(picture_files(folder), size, channels)])


def films(folder: Path, size: tuple[int, ...], channels: int) -> Iterator[Tensor]:
    """Yield the film of a folder of frames, or of each folder of frames in it; arguments are as of `film`."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    for path in inside or [folder]:
        yield film(path, size, channels)
