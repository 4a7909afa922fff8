"""Low-resolution images: every f x f box of sub-pixels becomes its mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # `box_mean` of an array need not wait for torch
    from torch import Tensor

Images = TypeVar("Images", NDArray[np.uint8], "Tensor")


def box_mean(images: Images, factor: int) -> Images:
    """The mean of each box, halves rounded up: uint8 (n, c, h, w) -> (n, c, h/factor, w/factor) of the same kind.

    Exact, in integers. Pillow's `Image.reduce` gives the same if factor is a power of 2; otherwise it is one level
    lower for sums that are just enough to be rounded up (its division by the area is a product with a rounded inverse).
    Raises ValueError if the images are not uint8 with 4 axes, or factor is below 2 or does not divide h and w.
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


def _check(images: Any, factor: int) -> None:
    shape = tuple(images.shape)
    if str(images.dtype).removeprefix("torch.") != "uint8" or len(shape) != 4:
        raise ValueError(f"expected uint8 images (n, c, h, w), got {images.dtype} {shape}")
    if factor < 2 or shape[2] % factor or shape[3] % factor:
        raise ValueError(f"expected a factor of at least 2 that divides {shape[2]} x {shape[3]}, got {factor}")
