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
    residual: int = 0
    """Pictures: residual convolutions (He et al. 2016) behind each of these but the first, of the same size."""

    def __post_init__(self) -> None:
        if self.residual < 0:
            raise OptionError(f"residual is {self.residual}; expected 0 or more")
        if not self.channels or any(count < 1 for count in self.channels):
            raise OptionError(
                f"channels is {list(self.channels)}; expected a number of at least 1 for each convolution"
            )


class PictureEncoder(nn.Module):
    """Makes a vector of each picture: convolutions of 3×3, each halving height and width, and a linear layer.

    Group normalisation (Wu and He, "Group normalization", ECCV 2018), which needs no statistics of a batch, and ReLU
    follow each convolution. A residual one adds what comes out to what went in: He, Zhang, Ren and Sun, "Deep residual
    learning for image recognition", CVPR 2016.

    Args:
        picture: how large the pictures are.
        channels: of each convolution.
        size: numbers of a vector.
        residual: how many more follow each convolution but the first, whose pictures are the largest.
    """

    def __init__(self, picture: PictureSize, channels: Sequence[int], size: int, residual: int = 0) -> None:
        super().__init__()
        self.picture, layers = picture, list[nn.Module]()
        height, width, before = picture.height, picture.width, picture.channels
        for level, count in enumerate(channels):
            layers += _convolution(before, count, stride=2)
            layers += [Residual(count) for _ in range(residual if level else 0)]
            height, width, before = -(-height // 2), -(-width // 2), count
        self.convolutions = nn.Sequential(*layers)
        self.grid, self.stride, self.features = (height, width), 2 ** len(channels), before
        self.linear = Linear(height * width * before, size)

    @property
    def places(self) -> int:
        """How many places the last convolution tells of, row by row of `grid`; `stride` pixels lie between them."""
        return self.grid[0] * self.grid[1]

    def forward(self, pictures: Tensor) -> Tensor:
        """Return vectors [..., size] of pictures [..., height, width, channels] of 0 to 255."""
        return self.vectors(self.maps(pictures)).view(*pictures.shape[:-3], -1)

    def maps(self, pictures: Tensor) -> Tensor:
        """Return what the convolutions see at each place, [N, features, places], of pictures of 0 to 255."""
        rows = pictures.reshape(-1, *pictures.shape[-3:]).permute(0, 3, 1, 2)
        maps: Tensor = self.convolutions(rows.to(self.linear.weight.dtype) / 255)
        return maps.flatten(2)

    def vectors(self, maps: Tensor) -> Tensor:
        """Return the vectors [N, size] of maps [N, features, places]."""
        vectors: Tensor = self.linear(maps.flatten(1))
        return vectors

    def block(self) -> Block:
        """Return what figures say of it."""
        return Block("convolutions", self.picture.numbers, self.linear.out_features)


class Residual(nn.Module):
    """A convolution of 3×3 whose maps [N, channels, height, width] are added to those that it reads."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Sequential(*_convolution(channels, channels, stride=1))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps, of the same shape."""
        return maps + self.convolution(maps)  # type: ignore[no-any-return]


def _convolution(reads: int, writes: int, stride: int) -> list[nn.Module]:
    groups = writes // GROUP if writes % GROUP == 0 else 1
    return [nn.Conv2d(reads, writes, 3, stride=stride, padding=1), nn.GroupNorm(groups, writes), nn.ReLU()]
