"""Pictures as numbers: [height, width, channels], whole numbers from 0, dark, to 255, bright."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everloop.errors import DataError, OptionError


@dataclass(frozen=True)
class PictureSize:
    """How large a picture is. channels: 1 of a grey one, 3 of red, green and blue."""

    height: int
    width: int
    channels: int = 1

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.channels) < 1:
            raise DataError(f"a picture is {self}; expected at least 1×1×1")

    @classmethod
    def of(cls, picture: Tensor) -> PictureSize:
        """Return the size of a picture [height, width, channels]."""
        return cls(*picture.shape)

    @classmethod
    def read(cls, content: Mapping[str, Any], path: Path) -> PictureSize:
        """Return the size that a file of a run folder holds.

        Raises:
            DataError: it is none.
        """
        sides = [content.get(field.name) for field in fields(cls)]
        if any(type(side) is not int for side in sides):
            raise DataError(f"{path}: expected height, width and channels of a picture as whole numbers")
        return cls(*sides)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.height}×{self.width}×{self.channels}"

    @property
    def numbers(self) -> int:
        """How many numbers a picture has."""
        return self.height * self.width * self.channels


def check_size(size: Sequence[int], patch: int = 0) -> None:
    """Check settings that say to what size pictures are scaled, and how wide the squares are that are their steps.

    Raises:
        OptionError: a size is not empty, and no height and width; or a patch is below 0.
    """
    if len(size) not in (0, 2) or any(side < 1 for side in size):
        raise OptionError(f"size is {list(size)}; expected height and width")
    if patch < 0:
        raise OptionError(f"patch is {patch}; expected 0 (rows of pixels) or more")


def brightness(values: np.ndarray[Any, Any], place: str) -> Tensor:
    """Return the numbers of pictures, of any shape, as they are kept: whole, 0 to 255.

    Args:
        values: whole numbers from 0 to 255; other numbers from 0 to 1, or whether a pixel is bright.
        place: what messages call it.

    Raises:
        DataError: they are something else.
    """
    most = 1 if values.dtype.kind in "bf" else 255
    if values.dtype.kind not in "buif":
        raise DataError(f"{place} holds {values.dtype}; expected pictures as numbers")
    if values.dtype != np.uint8 and values.size:
        low, high = float(values.min()), float(values.max())
        if not 0 <= low <= high <= most:
            raise DataError(f"{place} has numbers from {low:g} to {high:g}; expected 0 to {most} in pictures")
        values = np.round(values * 255.0) if most == 1 else values
    return torch.from_numpy(np.require(values, np.uint8, ["C", "W"]))
