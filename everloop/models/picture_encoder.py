"""Pictures in front of recurrent layers: convolutions that make a vector of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from everloop.data.pictures import PictureSize
from everloop.errors import OptionError
from everloop.layers.linear import Linear
from everloop.models.outline import Block

GROUP = 8  # channels that are normalised together


@dataclass(frozen=True)
class PicturesConfig:
    """How pictures are read, by models that read them."""

    channels: tuple[int, ...] = (16, 32, 64)
    """Pictures: channels of each convolution, one after another; each halves height and width."""

    def __post_init__(self) -> None:
        if not self.channels or any(count < 1 for count in self.channels):
            raise OptionError(
                f"channels is {list(self.channels)}; expected a number of at least 1 for each convolution"
            )


class PictureEncoder(nn.Module):
    """Makes a vector of each picture: convolutions of 3×3, each halving height and width, and a linear layer.

    Group normalisation (Wu and He, "Group normalization", ECCV 2018), which needs no statistics of a batch, and ReLU
    follow each convolution.

    Args:
        picture: how large the pictures are.
        channels: of each convolution.
        size: numbers of a vector.
    """

    def __init__(self, picture: PictureSize, channels: Sequence[int], size: int) -> None:
        super().__init__()
        self.picture, layers = picture, list[nn.Module]()
        height, width, before = picture.height, picture.width, picture.channels
        for count in channels:
            groups = count // GROUP if count % GROUP == 0 else 1
            layers += [nn.Conv2d(before, count, 3, stride=2, padding=1), nn.GroupNorm(groups, count), nn.ReLU()]
            height, width, before = -(-height // 2), -(-width // 2), count
        self.convolutions = nn.Sequential(*layers)
        self.linear = Linear(height * width * before, size)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return vectors [..., size] of pictures [..., height, width, channels] of 0 to 255."""
        rows = pictures.reshape(-1, *pictures.shape[-3:]).permute(0, 3, 1, 2)
        maps = self.convolutions(rows.to(self.linear.weight.dtype) / 255)
        vectors: Tensor = self.linear(maps.flatten(1))
        return vectors.view(*pictures.shape[:-3], -1)

    def block(self) -> Block:
        """Return what figures say of it."""
        return Block("convolutions", self.picture.numbers, self.linear.out_features)
