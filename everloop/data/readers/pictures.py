"""Pictures: of NumPy files, and PNG and JPEG files, which Pillow reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from everloop.data.files import no_such, read_bytes
from everloop.data.pictures import PictureSize, brightness
from everloop.data.readers.arrays import read_array
from everloop.errors import DataError, UnsupportedError

ENDINGS = (".png", ".jpg", ".jpeg")
ARRAYS = (".npy", ".npz")


def read_pictures(path: Path, name: str = "") -> Tensor:
    """Return the pictures [N, height, width, channels] of a NumPy file: of the array of this name, or of its only one.

    Raises:
        DataError: missing, damaged, no such array, or something else than pictures.
    """
    found = read_array(path, name)
    if found.ndim not in (3, 4):
        expected = "[N, height, width], or [N, height, width, channels]"
        raise DataError(f"{path} holds {found.dtype} {list(found.shape)}; expected pictures {expected}")
    pictures = brightness(found, str(path))
    return pictures if pictures.dim() == 4 else pictures[..., None]


def read_picture(path: Path, size: PictureSize | None = None) -> Tensor:
    """Return the picture [height, width, channels] of a PNG or JPEG file: grey if it is, else in colours.

    Args:
        path: the file.
        size: to which it is scaled, with its channels; None: it stays as it is.

    Raises:
        DataError: missing, or no picture.
        UnsupportedError: Pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError:
        raise UnsupportedError(f"{path}: to read pictures needs Pillow: pip install 'everloop[pictures]'") from None
    from io import BytesIO

    try:
        with Image.open(BytesIO(read_bytes(path, "picture"))) as image:
            grey = size.channels == 1 if size else image.mode in ("1", "L", "LA")
            found = image.convert("L" if grey else "RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path} is no picture that can be read: {error}") from None
    if size and found.size != (size.width, size.height):
        found = found.resize((size.width, size.height), Image.Resampling.BILINEAR)
    numbers = brightness(np.asarray(found), str(path))
    return numbers if numbers.dim() == 3 else numbers[..., None]


def pictures_of(path: Path, size: PictureSize, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield (name, picture) of a PNG or JPEG file, of all in a folder by name, or, by number, of a NumPy file.

    Those of files are scaled to `size`.

    Raises:
        DataError: there is none, or one of a NumPy file has another size.
    """
    if path.suffix.lower() in ARRAYS:
        for number, picture in enumerate(read_pictures(path, name), 1):
            if PictureSize.of(picture) != size:
                raise DataError(f"{path} holds pictures of {PictureSize.of(picture)}; expected {size}")
            yield str(number), picture
        return
    for file in picture_files(path):
        yield str(file), read_picture(file, size)


def picture_files(path: Path) -> list[Path]:
    """Return the PNG and JPEG files below a folder, by name; of a file itself.

    Raises:
        DataError: there is none.
    """
    if not path.exists():
        raise no_such(path)
    found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS)
    if not found:
        raise DataError(f"folder {path} has no picture; expected files that end in {', '.join(ENDINGS)}")
    return found
