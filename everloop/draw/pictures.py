"""Pictures of numbers as PNG files, and side by side as SVG."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

COLOURS = {1: 0, 3: 2}  # what PNG calls grey, and red, green and blue, by the number of channels


def png(picture: Tensor) -> bytes:
    """Return a picture [height, width, channels] of whole numbers from 0 to 255 as a PNG file.

    Of other than three channels only the first is drawn, in grey.
    """
    drawn = picture if picture.shape[2] == 3 else picture[..., :1]
    height, width, channels = drawn.shape
    pixels = drawn.to(torch.uint8).numpy().reshape(height, -1)
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels], 1).tobytes()  # each row begins with "no filter"
    head = struct.pack(">IIBBBBB", width, height, 8, COLOURS[channels], 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def svg(pictures: Sequence[Tensor], width: int = 280) -> str:
    """Return pictures [height, width, channels] of the same size, row by row, as one SVG picture.

    Args:
        pictures: at least one.
        width: of the whole in pixels, at most; a single picture that is wider is drawn smaller.
    """
    columns = min(max(1, width // pictures[0].shape[1]), len(pictures))
    blank = [torch.zeros_like(pictures[0])] * (-len(pictures) % columns)
    every = [*pictures, *blank]
    sheet = torch.cat([torch.cat(every[i : i + columns], 1) for i in range(0, len(every), columns)])
    data, (high, wide, _) = base64.b64encode(png(sheet)).decode("ascii"), sheet.shape
    shown = min(wide, width)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{shown}" '
        f'height="{round(high * shown / wide)}"><image width="{wide}" height="{high}" '
        f'href="data:image/png;base64,{data}"/></svg>'
    )
