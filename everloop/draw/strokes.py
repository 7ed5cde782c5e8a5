"""Pen strokes as pictures: SVG, PNG, or an array of ink."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from everloop.draw import pictures

Lines = Sequence[Tensor]


def svg(drawings: Sequence[Lines], columns: int = 10, size: int = 64, upward: bool = True) -> str:
    """Return drawings side by side as one SVG picture.

    Args:
        drawings: each a list of strokes, a stroke is its points [n, 2].
        columns: drawings in a row.
        size: pixels of the square of each.
        upward: whether y grows upwards, as on a pen tablet; otherwise downwards, as on a screen.
    """
    rows = -(-len(drawings) // columns)
    width, height = min(columns, len(drawings)) * size, rows * size
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    ]
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    parts.append(
        f'<g fill="none" stroke="#1d3557" stroke-width="{size / 24:g}" stroke-linecap="round" stroke-linejoin="round">'
    )
    for number, lines in enumerate(drawings):
        corner = torch.tensor([number % columns * size, number // columns * size], dtype=torch.float32)
        for line in fitted(lines, size, 0.1, upward):
            spots = " ".join(f"{x:.1f},{y:.1f}" for x, y in (line + corner).tolist())
            parts.append(f'<polyline points="{spots}"/>')
    return "\n".join([*parts, "</g>", "</svg>"]) + "\n"


def ink(lines: Lines, size: int = 28, border: float = 0.14, pen: float = 1.0, upward: bool = True) -> Tensor:
    """Return the picture [size, size] of a drawing: 0 where the paper is, 1 where the ink is.

    Args:
        lines: strokes, each the points [n, 2] of a line.
        size: pixels of a side.
        border: fraction of the side that stays free on each edge.
        pen: half the width of a line in pixels; edges fade over one pixel.
        upward: whether y grows upwards.
    """
    centres = torch.arange(size, dtype=torch.float32) + 0.5
    spots = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1)  # x runs along the columns
    placed = fitted(lines, size, border, upward)
    if not placed:
        return torch.zeros(size, size)
    # the last point of a line is its own end, so that a dot is drawn too
    starts = torch.cat(placed)[:, None, None]
    ends = torch.cat([torch.cat([line[1:], line[-1:]]) for line in placed])[:, None, None]
    ways = ends - starts
    along = ((spots - starts) * ways).sum(-1) / (ways**2).sum(-1).clamp(min=1e-9)
    away: Tensor = (spots - starts - along.clamp(0, 1)[..., None] * ways).norm(dim=-1)
    return (pen + 0.5 - away.amin(0)).clamp(0, 1)


def fitted(lines: Lines, size: int, border: float, upward: bool) -> list[Tensor]:
    """Return lines scaled into a square picture whose y grows downwards, centred, the longer side filling it."""
    if not lines:
        return []
    points = torch.cat(list(lines))
    low, high = points.min(0).values, points.max(0).values
    scale = size * (1 - 2 * border) / float((high - low).max().clamp(min=1e-6))
    flip = torch.tensor([1.0, -1.0 if upward else 1.0])
    return [((line - (low + high) / 2) * scale * flip + size / 2) for line in lines]


def sheet(inks: Sequence[Tensor], columns: int = 10) -> Tensor:
    """Return pictures of the same size side by side as one picture."""
    height, width = inks[0].shape
    rows = -(-len(inks) // columns)
    whole = torch.zeros(rows * height, min(columns, len(inks)) * width)
    for number, picture in enumerate(inks):
        row, column = divmod(number, columns)
        whole[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
    return whole


def png(picture: Tensor) -> bytes:
    """Return a picture [height, width] of ink (0 paper, 1 ink) as a PNG file: dark on white."""
    return pictures.png((255 * (1 - picture.clamp(0, 1))).round()[..., None])
