"""Pictures: of NumPy files, and PNG and JPEG files, which Pillow reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from everloop.data.files import no_such, open_file
from everloop.data.pictures import PictureSize, brightness
from everloop.data.readers.arrays import read_array
from everloop.data.readers.source import Fields, Record, Source
from everloop.errors import DataError, OptionError, UnsupportedError

if TYPE_CHECKING:
    from PIL.Image import Image

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


def read_picture(path: Path, size: tuple[int, ...] = (), channels: int | None = None) -> Tensor:
    """Return the picture [height, width, channels] of a PNG or JPEG file.

    Args:
        path: the file.
        size: height and width to which it is scaled; none: they stay as they are.
        channels: how many it gets; None: 1 if it is grey, else 3.

    Raises:
        DataError: missing, or no picture.
        UnsupportedError: Pillow is not installed.
    """
    with _opened(path) as image:
        from PIL import Image, ImageOps

        mode = "L" if (channels or _channels(image)) == 1 else "RGB"
        found = ImageOps.exif_transpose(image).convert(mode)  # a camera notes how it was held
        if size and found.size != (size[1], size[0]):
            found = found.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    numbers = brightness(np.asarray(found), str(path))
    return numbers if numbers.dim() == 3 else numbers[..., None]


def most_channels(files: Iterable[Path]) -> int:
    """Return the channels that pictures have together: 3 if one has colours. Only the beginning of a file is read."""
    for file in files:
        with _opened(file) as image:
            if _channels(image) == 3:
                return 3
    return 1


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
        yield str(file), read_picture(file, (size.height, size.width), size.channels)


def picture_files(path: Path) -> list[Path]:
    """Return the PNG and JPEG files below a folder, by name; of a file itself.

    Raises:
        DataError: there is none.
    """
    if not path.exists():
        raise no_such(path)
    found = [path] if path.is_file() else sorted(_inside(path), key=_order)
    if not found:
        raise DataError(f"folder {path} has no picture; expected files that end in {', '.join(ENDINGS)}")
    return found


def channels_of(path: Path) -> int | None:
    """Return the channels that the pictures below a folder have together; None: there is none."""
    return most_channels(picture_files(path)) if has_pictures(path) else None


def has_pictures(path: Path) -> bool:
    """Return whether something is a folder with PNG or JPEG files below."""
    return path.is_dir() and any(True for _ in _inside(path))


def same_size(
    files: Sequence[Path], size: tuple[int, ...] = (), channels: int | None = None
) -> Iterator[tuple[Path, Tensor]]:
    """Yield picture files with their pictures [height, width, channels].

    Args:
        files: at least one.
        size: height and width to which they are scaled; none: they must all have the same.
        channels: how many they get; None: all 3 if one of them has colours, else 1.

    Raises:
        DataError: one has another size than the first.
    """
    channels, first = channels or most_channels(files), None
    for file in files:
        found = read_picture(file, size, channels)
        first = first or PictureSize.of(found)
        if PictureSize.of(found) != first:
            raise DataError(f"{file} is {PictureSize.of(found)}, {files[0]} is {first}; expected one size, or --size")
        yield file, found


def only_for_folders(path: Path | None, **given: object) -> None:
    """Check that no setting was given that is for the pictures of a folder, where something else is read.

    Raises:
        OptionError: one was.
    """
    name = next((name for name, value in given.items() if value), None)
    if name and (path is None or (path.exists() and not has_pictures(path))):
        raise OptionError(f"{name} is for pictures of a folder; leave it out{f' for {path}' if path else ''}")


def steps_of(picture: Tensor, patch: int = 0) -> Tensor:
    """Return a picture [height, width, channels] as a sequence of numbers from 0 to 1, [T, F].

    Args:
        picture: of 0 to 255.
        patch: side of the squares that are steps, row by row from the left; 0: each row of pixels is a step.

    Raises:
        DataError: the squares do not fill the picture.
    """
    height, width, channels = picture.shape
    bright = picture.float() / 255
    if not patch:
        return bright.reshape(height, width * channels)
    if height % patch or width % patch:
        raise DataError(f"patch is {patch}; expected what divides {height} and {width}, the sides of the pictures")
    squares = bright.reshape(height // patch, patch, width // patch, patch, channels).transpose(1, 2)
    return squares.reshape(-1, patch * patch * channels)


def examples(source: Source, fields: Fields) -> Iterator[Record]:
    """Yield the PNG and JPEG files of a folder as sequences, each labelled with the folder that it is in."""
    for file, picture in same_size(picture_files(source.by_path()), fields.size, fields.channels):
        yield Record(steps_of(picture, fields.patch), file.parent.name)


@contextmanager
def _opened(path: Path) -> Iterator[Image]:
    """Open a picture; what goes wrong with it, until it is closed, is told with its name."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise UnsupportedError(f"{path}: to read pictures needs Pillow: pip install 'everloop[pictures]'") from None
    try:
        with open_file(path, "picture") as file, Image.open(file) as image:
            if image.mode[0] in "IF":
                raise DataError(
                    f"{path} has pixels of more than 8 bits ({image.mode}); expected grey or colours of 8 bits"
                )
            yield image
    except UnidentifiedImageError:
        raise DataError(f"{path} is no picture that can be read: its beginning is that of no known format") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is too large a picture: {error}") from None
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError) as error:  # Pillow has all of these for damaged files
        raise DataError(f"{path} is no picture that can be read: {str(error) or 'it ends too early'}") from None


def _channels(image: Image) -> int:
    return 1 if image.mode in ("1", "L", "LA") else 3


def _inside(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS)


def _order(path: Path) -> list[tuple[int, int, str]]:
    """Return what sorts paths by name, where numbers count as numbers: 2.png is before 10.png."""
    parts = re.findall(r"\d+|\D+", str(path))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
