"""Pictures of MNIST digits with captions, and films of a digit that changes: data for mnist_captions and mnist_frames.

    python digit_pictures.py MNIST_FOLDER --out digits

MNIST_FOLDER holds the four IDX files (LeCun et al. 1998). For train, valid and test are written NAME_pictures.npz
(array `pictures` [N, 64, 64]) with NAME_captions.txt (a caption a line), and NAME_frames.npz (arrays `frames`
[N, 20, 40, 40] and `digits` [N, 20]). Pictures are bright on dark, 0 to 255. No digit of MNIST is in two of the parts:
valid takes the last 5,000 training digits, test those of the test part. The same seed makes the same pictures.

A caption says what stands where:

    caption = row, or row " above " row
    row     = run, or run " and " run …, from left to right
    run     = "a seven", "an eight", "two threes", "three ones": as many equal digits as stand side by side

A picture has one to four digits, at most three in a row. The digits of a row share a line of pixels; between two rows,
and between two neighbours of a row, a line of pixels is empty.

Digits of the train pictures are turned, slanted and stretched a little at random, for there are fewer writers than
pictures. Those of valid and test, and those of all films, stand as they were written.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from everloop.data.readers.idx import read_idx

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLURALS = tuple(f"{word}es" if word == "six" else f"{word}s" for word in WORDS)
COUNTS = ("", "a", "two", "three")
ABREAST = 3  # digits in a row, at most
AGAIN = 0.35  # probability that a neighbour is the same digit
SIDE, GAP = 64, 2  # of a picture, and between digits, in pixels
SIZES = (15, 18)  # of the longer side of a digit
SHIFT = 3  # pixels by which a digit stands lower than its row begins, at most
FRAMES, FRAME, FRAME_SIZES = 20, 40, (18, 22)
CHANGE = 0.15  # probability that another digit is shown from a frame on
COVERED, COVER = 0.15, 14  # probability that a square hides a part of a frame, and its side
HELD = 5000  # training digits of the valid part
BOUNDS = torch.tensor([0.25, 0.25, 0.2, 0.2])  # of a varied digit: its turn in radians, its slant, width and height
Row = Sequence[int]


def caption(rows: Sequence[Row]) -> str:
    """Return the caption of rows of digits, the upper one first."""
    return " above ".join(" and ".join(_run(digit, len([*same])) for digit, same in groupby(row)) for row in rows)


def _run(digit: int, count: int) -> str:
    if count > 1:
        return f"{COUNTS[count]} {PLURALS[digit]}"
    return f"{'an' if digit == 8 else 'a'} {WORDS[digit]}"


class Digits:
    """Digits of MNIST, drawn at random: images [N, 28, 28] with labels [N].

    Args:
        images: brightness, 0 to 255.
        labels: the digit of each.
        seed: of what is drawn.
        vary: turn, slant and stretch each digit a little at random.
    """

    def __init__(self, images: Tensor, labels: Tensor, seed: int, vary: bool = False) -> None:
        self.images, self.labels, self.vary = images.float(), labels.long(), vary
        self.chance = torch.Generator().manual_seed(seed)
        self.of = [(self.labels == digit).nonzero()[:, 0] for digit in range(10)]

    def whole(self, low: int, high: int) -> int:
        """Return a whole number, at least `low` and at most `high`."""
        return int(torch.randint(low, high + 1, (), generator=self.chance))

    def chosen(self, probability: float) -> bool:
        """Return true with a probability."""
        return float(torch.rand((), generator=self.chance)) < probability

    def ink(self, digit: int, sizes: tuple[int, int]) -> Tensor:
        """Return a digit [h, w] without a margin, the longer side between `sizes`."""
        found = self.of[digit]
        image = self.images[found[self.whole(0, len(found) - 1)]]
        if self.vary:
            image = self.varied(image)
        down, right = image.amax(1).nonzero()[:, 0], image.amax(0).nonzero()[:, 0]
        image = image[down[0] : down[-1] + 1, right[0] : right[-1] + 1]
        scale = self.whole(*sizes) / max(image.shape)
        size = [max(3, round(side * scale)) for side in image.shape]
        return F.interpolate(image[None, None], size, mode="bilinear", antialias=True)[0, 0].clamp(0, 255)

    def varied(self, image: Tensor) -> Tensor:
        """Return an image [28, 28], turned, slanted and stretched at random around its middle."""
        turn, slant, wide, high = ((torch.rand(4, generator=self.chance) * 2 - 1) * BOUNDS).tolist()
        cos, sin = math.cos(turn), math.sin(turn)
        turned = torch.tensor([[cos, -sin], [sin, cos]]) @ torch.tensor([[1 + wide, slant], [0, 1 + high]])
        where = F.affine_grid(F.pad(turned, (0, 1))[None], [1, 1, *image.shape], align_corners=False)
        return F.grid_sample(image[None, None], where, align_corners=False)[0, 0]

    def rows(self) -> list[list[int]]:
        """Return what a picture shows: one or two rows of digits."""
        count = self.whole(1, 4)
        upper = self.whole(max(1, count - ABREAST), min(count, ABREAST))
        sizes = [upper, count - upper] if upper < count else [count]
        found = []
        for size in sizes:
            row = [self.whole(0, 9)]
            while len(row) < size:
                row.append(row[-1] if self.chosen(AGAIN) else self.whole(0, 9))
            found.append(row)
        return found

    def picture(self, rows: Sequence[Row]) -> Tensor:
        """Return a picture [SIDE, SIDE] of rows of digits, at random places; bytes."""
        result = torch.zeros(SIDE, SIDE)
        drawn = [[(self.ink(digit, SIZES), self.whole(0, SHIFT)) for digit in row] for row in rows]
        tops = self._places([max(down + len(ink) for ink, down in row) for row in drawn])
        for top, row in zip(tops, drawn, strict=True):
            for left, (ink, down) in zip(self._places([ink.shape[1] for ink, _ in row]), row, strict=True):
                height, width = ink.shape
                result[top + down : top + down + height, left : left + width] = ink
        return result.round().to(torch.uint8)

    def _places(self, sizes: Sequence[int]) -> Iterator[int]:
        """Yield where things of some sizes begin, one after another on SIDE pixels with gaps at random."""
        free = SIDE - sum(sizes) - GAP * (len(sizes) - 1)
        starts = sorted(self.whole(0, free) for _ in sizes)
        for i, start in enumerate(starts):
            yield start + sum(sizes[:i]) + GAP * i

    def film(self) -> tuple[Tensor, list[int]]:
        """Return frames [FRAMES, FRAME, FRAME] of a digit that moves, bounces and changes, bytes; the digit of each."""
        frames, labels = torch.zeros(FRAMES, FRAME, FRAME), list[int]()
        spot, way = torch.rand(2, generator=self.chance), torch.rand(2, generator=self.chance) * 0.3 - 0.15
        digit = self.whole(0, 9)
        ink = self.ink(digit, FRAME_SIZES)
        for frame in frames:
            if labels and self.chosen(CHANGE):
                digit = (digit + self.whole(1, 9)) % 10
                ink = self.ink(digit, FRAME_SIZES)
            height, width = ink.shape
            top, left = (int(at * (FRAME - side)) for at, side in zip(spot.tolist(), ink.shape, strict=True))
            frame[top : top + height, left : left + width] = ink
            if self.chosen(COVERED):
                down, right = self.whole(0, FRAME - COVER), self.whole(0, FRAME - COVER)
                frame[down : down + COVER, right : right + COVER] = 128
            labels.append(digit)
            spot = spot + way
            way = torch.where((spot < 0) | (spot > 1), -way, way)
            spot = spot.clamp(0, 1)
        return frames.round().to(torch.uint8), labels


def parts(folder: Path) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the name, the images and the labels of train, valid and test."""
    images, labels = (read_idx(folder / f"train-{name}-ubyte.gz") for name in ("images-idx3", "labels-idx1"))
    yield "train", images[:-HELD], labels[:-HELD]
    yield "valid", images[-HELD:], labels[-HELD:]
    images, labels = (read_idx(folder / f"t10k-{name}-ubyte.gz") for name in ("images-idx3", "labels-idx1"))
    yield "test", images, labels


def main() -> None:
    """Write the pictures, the captions and the films."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mnist", type=Path, help="folder of the four IDX files")
    parser.add_argument("--out", type=Path, default=Path("digits"), help="folder that is written")
    parser.add_argument("--pictures", type=int, nargs=3, default=(240_000, 1000, 2000), help="of train, valid and test")
    parser.add_argument("--films", type=int, nargs=3, default=(8000, 200, 500), help="of train, valid and test")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for number, ((name, images, labels), count, films) in enumerate(
        zip(parts(options.mnist), options.pictures, options.films, strict=True)
    ):
        # each with chance of its own, so that the number of pictures changes no film
        seed = 10 * options.seed + 2 * number
        digits, moving = Digits(images, labels, seed, vary=name == "train"), Digits(images, labels, seed + 1)
        shown = [digits.rows() for _ in range(count)]
        pictures = torch.stack([digits.picture(rows) for rows in shown])
        np.savez_compressed(options.out / f"{name}_pictures.npz", pictures=pictures.numpy())
        lines = "".join(f"{caption(rows)}\n" for rows in shown)
        (options.out / f"{name}_captions.txt").write_text(lines, encoding="utf-8")
        frames, shown_digits = zip(*(moving.film() for _ in range(films)), strict=True)
        np.savez_compressed(
            options.out / f"{name}_frames.npz",
            frames=torch.stack(frames).numpy(),
            digits=np.array(shown_digits, np.uint8),
        )
        print(f"{name}: {count:,} pictures, {films:,} films of {FRAMES} frames")


if __name__ == "__main__":
    main()
