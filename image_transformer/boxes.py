"""Box means: the low-resolution image that super-resolution is given, and what it says of the pixels of a box.

The low-resolution value is a known function of its box, so once some values of the box are drawn, those that would
make the mean impossible can be told: `bounds`.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from image_transformer.order import IntArray, Layout

ImagesT = TypeVar("ImagesT", Tensor, NDArray[np.uint8])


def place_of_box(layout: Layout, factor: int) -> IntArray:
    """The flat place in the low-resolution image of the box that each flat place of the image lies in, `(dims,)`."""
    channel, row, col = np.indices((layout.channels, layout.height, layout.width))
    low_height, low_width = layout.height // factor, layout.width // factor
    return ((channel * low_height + row // factor) * low_width + col // factor).reshape(-1)


def places_in_boxes(layout: Layout, factor: int, step: IntArray) -> IntArray:
    """The flat places in the image of the values of each box, `(boxes, factor^2)`, in the order of their generation.

    step: the step in which each position is generated, `(l,)`; within a step they go by their number.
    """
    box = place_of_box(layout, factor)
    position = layout.position_of
    return np.lexsort((position, step[position], box)).reshape(-1, factor**2)


def bounds(low: Tensor, total: Tensor, left: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value, int64, that still allow the mean of a box to be `low`.

    total: the sum of the values of the box that are there; left: how many are to come after the one in question.
    The mean rounds to `low` if the sum lies in n low - n // 2 ... n low - n // 2 + n - 1, with n = factor^2.
    """
    n = factor**2
    least = n * low.long() - n // 2
    return (least - total - 255 * left).clamp(min=0), (least + n - 1 - total).clamp(max=255)
