"""Box means: the low-resolution image that super-resolution is given, and what it says of the pixels of a box.

The low-resolution value is a known function of its box, so once some values of the box are there, those that would
make the mean impossible can be told: `bounds`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from image_transformer.geometry.order import IntArray, Layout

if TYPE_CHECKING:  # `box_mean` of an array need not wait for torch
    from torch import Tensor

Images = TypeVar("Images", NDArray[np.uint8], "Tensor")


def box_mean(images: Images, factor: int) -> Images:
    """The mean of each box, halves rounded up: uint8 (n, c, h, w) -> (n, c, h/factor, w/factor) of the same kind.

    Exact, in integers. Pillow's `Image.reduce` gives the same if factor is a power of 2; otherwise it is one level
    lower for sums that are just enough to be rounded up (its division by the area is a product with a rounded inverse).
    Raises ValueError if the images are not uint8 with 4 axes, or factor is below 2 or does not divide h and w.

    >>> it.box_mean(images, 4).shape
    torch.Size([2, 3, 2, 2])
    """
    _check(images, factor)
    n, c, h, w = images.shape
    boxes: Any = images.reshape(n, c, h // factor, factor, w // factor, factor)
    area = factor * factor
    if isinstance(images, np.ndarray):
        return ((boxes.sum((3, 5), dtype=np.int64) + area // 2) // area).astype(np.uint8)
    return ((boxes.sum((3, 5)) + area // 2) // area).byte()


def nearest(low: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Every pixel of (n, c, h, w) repeated factor x factor: the plainest enlargement, whose box means are `low`."""
    return low.repeat(factor, axis=2).repeat(factor, axis=3)


@lru_cache(maxsize=16)
def place_of_box(layout: Layout, factor: int) -> IntArray:
    """The flat place in the low-resolution image of the box that each flat place of the image lies in, `(dims,)`."""
    channel, row, col = np.indices((layout.channels, layout.height, layout.width))
    low_height, low_width = layout.height // factor, layout.width // factor
    return ((channel * low_height + row // factor) * low_width + col // factor).reshape(-1)


@lru_cache(maxsize=16)
def places_in_boxes(layout: Layout, factor: int) -> IntArray:
    """The flat places in the image of the values of each box, `(boxes, factor^2)`, in the order of their positions."""
    return np.lexsort((layout.position_of, place_of_box(layout, factor))).reshape(-1, factor**2)


def bounds(low: Tensor, total: Tensor, left: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value, int64, that still allow the mean of a box to be `low`.

    total: the sum of the values of the box that are there; left: how many are to come after the one in question.
    The mean rounds to `low` if the sum lies in n low - n // 2 ... n low - n // 2 + n - 1, with n = factor^2.
    """
    n = factor**2
    least = n * low.long() - n // 2
    return (least - total - 255 * left).clamp(min=0), (least + n - 1 - total).clamp(max=255)


def _check(images: Any, factor: int) -> None:
    shape = tuple(images.shape)
    if str(images.dtype).removeprefix("torch.") != "uint8" or len(shape) != 4:
        raise ValueError(f"expected uint8 images (n, c, h, w), got {images.dtype} {shape}")
    if factor < 2 or shape[2] % factor or shape[3] % factor:
        raise ValueError(f"expected a factor of at least 2 that divides {shape[2]} x {shape[3]}, got {factor}")
