"""Generation orders: which pixel is generated when, and where every position of the sequence lies in the image.

Geometry only, in NumPy; what a position may attend to is in `patterns.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Raster:
    """Row by row, left to right: the paper's order."""

    name: ClassVar[str] = "raster"

    def front(self, height: int, width: int) -> IntArray:
        """The front of each pixel, row by row, `(height * width,)`: here each is a front of its own."""
        return np.arange(height * width)


@dataclass(frozen=True)
class BlockRaster:
    """Blocks of `block` = (rows, columns) whole pixels in raster order, raster inside: the paper's for 2D attention.

     0  1 |  4  5 |  8
     2  3 |  6  7 |  9        3 x 5 pixels in blocks of 2 x 2; blocks at the edges are smaller
    ------+-------+---
    10 11 | 12 13 | 14
    """

    block: tuple[int, int]
    name: ClassVar[str] = "block-raster"

    def __post_init__(self) -> None:
        if min(self.block) < 1:
            raise ValueError(f"a block needs at least 1 row and 1 column, got {self.block}")

    def front(self, height: int, width: int) -> IntArray:
        row, col = np.divmod(np.arange(height * width), width)
        return np.lexsort((col, row, col // self.block[1], row // self.block[0])).argsort()


@dataclass(frozen=True)
class Wavefront:
    """Diagonal fronts: pixel (row, column) belongs to front column + (slope + 1) * row, and a front is drawn at once.

    0 1 2 3 4
    2 3 4 5 6        the fronts of 3 x 5 pixels at slope 1
    4 5 6 7 8

    Pixels of one front are independent given all earlier fronts, which is an exact model of its own: a pixel sees
    the row above up to `slope` columns to its right, and further for rows further up. There are
    width + (height - 1) (slope + 1) fronts: 94 for 32 x 32 pixels at slope 1, where `Raster` takes 1,024 steps.
    Positions are numbered front by front, from the top row down. Inputs must come from earlier fronts, so the
    paper's shift along the sequence does not go with it.
    """

    slope: int = 1
    name: ClassVar[str] = "wavefront"

    def __post_init__(self) -> None:
        if self.slope < 0:
            raise ValueError(f"wavefront needs slope >= 0, got {self.slope}")

    def front(self, height: int, width: int) -> IntArray:
        row, col = np.divmod(np.arange(height * width), width)
        return col + (self.slope + 1) * row


Order = Raster | BlockRaster | Wavefront


@dataclass(frozen=True)
class Positions:
    """Some positions of a sequence: arrays of one shape, indexed and broadcast together.

    index: place in the sequence, ascending in fronts. front: positions of one front may be generated together, since
    none of them is an input of another.
    row, col: the pixel. channel: 0 for positions that are whole pixels.
    """

    index: IntArray
    front: IntArray
    row: IntArray
    col: IntArray
    channel: IntArray

    def __getitem__(self, key: object) -> Positions:
        return Positions(*(getattr(self, field)[key] for field in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Layout:
    """The sequence of one image: its order, its size, and whether a position is a pixel or a sub-pixel.

    With `sub_pixels` each channel of a pixel is a position, in a later front than the channels before it; without, a
    position holds all channels.
    """

    order: Order
    channels: int
    height: int
    width: int
    sub_pixels: bool

    @property
    def values_per_position(self) -> int:
        return 1 if self.sub_pixels else self.channels

    @property
    def num_positions(self) -> int:
        return self.height * self.width * (self.channels if self.sub_pixels else 1)

    @property
    def num_dims(self) -> int:
        """Sub-pixels of one image: the *dims* of bits/dim."""
        return self.height * self.width * self.channels

    @cached_property
    def positions(self) -> Positions:
        """All positions in generation order, `(l,)` each."""
        per_pixel = self.channels if self.sub_pixels else 1
        channel = np.tile(np.arange(per_pixel), self.height * self.width)
        front = np.repeat(self.order.front(self.height, self.width), per_pixel) * per_pixel + channel
        by_front = np.argsort(front, kind="stable")
        row, col = np.divmod(by_front // per_pixel, self.width)
        return Positions(np.arange(self.num_positions), front[by_front], row, col, channel[by_front])

    @cached_property
    def values(self) -> IntArray:
        """Where the values of each position lie in an image flattened from (c, h, w), `(l, values_per_position)`."""
        p = self.positions
        channel = p.channel[:, None] if self.sub_pixels else np.arange(self.channels)[None]
        return (channel * self.height + p.row[:, None]) * self.width + p.col[:, None]

    @cached_property
    def at(self) -> IntArray:
        """Index of the position at (row, column, channel), `(h, w, channels or 1)`: the inverse of `positions`."""
        p = self.positions
        table = np.empty((self.height, self.width, self.channels if self.sub_pixels else 1), np.int64)
        table[p.row, p.col, p.channel] = p.index
        return table

    @cached_property
    def position_of(self) -> IntArray:
        """The position that each value of an image flattened from (c, h, w) belongs to, `(num_dims,)`."""
        table = np.empty(self.num_dims, np.int64)
        table[self.values] = self.positions.index[:, None]
        return table


@lru_cache(maxsize=64)
def layout(order: Order, shape: tuple[int, int, int], sub_pixels: bool) -> Layout:
    """The one shared `Layout` of an image shape (channels, height, width), so that its tables are made once."""
    channels, height, width = shape
    return Layout(order, channels, height, width, sub_pixels)
