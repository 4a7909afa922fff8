"""Which generated pixels around a position are inputs of its slot. Geometry only, in NumPy."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product

import numpy as np

from image_transformer.geometry.order import IntArray, Layout, Order, layout

NUM_NEIGHBOURS = 17  # pixels whose values are inputs


@lru_cache
def nearest_generated(order: Order) -> tuple[tuple[int, int], ...]:
    """The `NUM_NEIGHBOURS` nearest pixels, (rows down, columns right), that most pixels find generated before them.

    A function of the order alone, seen on a 32 x 32 image, so that weights do not depend on the size of the images.
    """
    lay = layout(order, (1, 32, 32), sub_pixels=False)
    p, found = lay.positions, []
    for down, right in product(range(-6, 7), repeat=2):
        row, col = p.row + down, p.col + right
        inside = (row >= 0) & (row < lay.height) & (col >= 0) & (col < lay.width)
        earlier = p.front[lay.at[row[inside], col[inside], 0]] < p.front[inside]
        if earlier.mean() > 0.5:
            found.append((math.hypot(down, right), down, right))
    return tuple((down, right) for _, down, right in sorted(found)[:NUM_NEIGHBOURS])


def neighbour_table(layout: Layout) -> IntArray:
    """Flat places in the image of the values that are inputs of each position, `(l, neighbours * channels)`.

    A neighbour outside the image or not generated yet is replaced by the present one nearest to it, as if the
    image's edge went on; -1 where none is present. Sub-pixel positions also see the earlier channels of their pixel.
    """
    p = layout.positions
    offsets = (*nearest_generated(layout.order), *([(0, 0)] if layout.sub_pixels else []))
    table = np.full((len(offsets), layout.channels, layout.num_positions), -1)
    for o, (down, right) in enumerate(offsets):
        row, col = p.row + down, p.col + right
        inside = (row >= 0) & (row < layout.height) & (col >= 0) & (col < layout.width)
        row, col = np.where(inside, row, 0), np.where(inside, col, 0)
        for channel in range(layout.channels):
            where = layout.at[row, col, channel if layout.sub_pixels else 0]
            present = inside & (p.front[where] < p.front)
            table[o, channel] = np.where(present, (channel * layout.height + row) * layout.width + col, -1)
    original = table.copy()
    for o, (down, right) in enumerate(offsets):
        by_distance = sorted(range(len(offsets)), key=lambda i: math.hypot(offsets[i][0] - down, offsets[i][1] - right))
        for other in by_distance:
            table[o] = np.where(table[o] >= 0, table[o], original[other])
    return table.reshape(-1, layout.num_positions).T.copy()
