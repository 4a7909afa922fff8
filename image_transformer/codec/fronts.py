"""Walks a coding network over images of any size, front by front, or many fronts at once where all values are known.

In the wavefront order pixel (r, c) lies in front c + 2 r, so the neighbour (down, right) lies `-(right + 2 down)`
fronts before, in a row that many further up. States are kept by front and row, those of the last few fronts and of the
rows that these have: memory grows with the shorter side of an image, and no table has an entry for every pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from image_transformer.codec.integers import IntegerNetwork
from image_transformer.geometry.neighbours import nearest_generated
from image_transformer.geometry.order import IntArray, Wavefront
from image_transformer.geometry.patterns import BoolArray

ORDER = Wavefront(1)
OFFSETS = np.array(nearest_generated(ORDER))  # (17, 2): rows down, columns right
BACK = -(OFFSETS[:, 1] + 2 * OFFSETS[:, 0])  # how many fronts before
UP, DOWN = int(-OFFSETS[:, 0].min()), int(OFFSETS[:, 0].max())
SIDE = int(np.abs(OFFSETS[:, 1]).max())


def num_fronts(height: int, width: int) -> int:
    return width + 2 * (height - 1)


@dataclass(frozen=True)
class Slab:
    """Some fronts: the rows of their pixels from `top`, and which pixels of that block there are, `(s, r)`."""

    first: int
    count: int
    top: int
    rows: int
    inside: BoolArray
    row: IntArray
    col: IntArray


class Walk:
    """The parameters of a batch of images of one size, whose values may still be unknown beyond what has been walked.

    values: 2 v - 255 as float32 (h w + 1, b, c), by pixels row by row; the last one, 0, stands for none. Whoever
    decodes writes into it.
    """

    def __init__(self, network: IntegerNetwork, batch: int, height: int, width: int) -> None:
        self.network, self.batch, self.height, self.width = network, batch, height, width
        self.values = torch.zeros(height * width + 1, batch, network.channels, dtype=torch.float32, device="cpu")
        mix = network.neighbours
        self.back, self.down = BACK[:mix], OFFSETS[:mix, 0]
        self.top = 0  # of the rows that the past fronts have, beside margins of UP and DOWN
        self.past = [self.values.new_zeros(int(self.back.max()), UP + DOWN, batch, network.width)] * network.depth

    def slab(self, first: int, count: int) -> Slab:
        """Fronts `first` to `first + count - 1`."""
        top = max(0, (first - self.width + 2) // 2)
        bottom = min(self.height, (first + count - 1) // 2 + 1)
        row = np.broadcast_to(np.arange(top, bottom), (count, bottom - top))
        col = np.arange(first, first + count)[:, None] - 2 * row
        inside = (col >= 0) & (col < self.width)
        return Slab(first, count, top, bottom - top, inside, row, col)

    def __call__(self, slab: Slab) -> Tensor:
        """Parameters `(n, b, p)` of the pixels of a slab, front by front, each from its upper row to its lowest."""
        where = self._sources(slab)
        seen = self.values[torch.from_numpy(where)]  # (s, r, 17, b, c)
        features = seen.transpose(2, 3).flatten(3)  # (s, r, b, 17 c)
        inside = None if slab.inside.all() else torch.from_numpy(slab.inside)

        def see(layer: int, states: Tensor) -> list[Tensor]:
            if inside is not None:
                states.mul_(inside[..., None, None])
            past = self.past[layer][:, slab.top - self.top :]
            before, (count, rows) = len(past), states.shape[:2]
            fronts = states.new_zeros(before + count, UP + rows + DOWN, *states.shape[2:])
            fronts[:before, : past.shape[1]] = past
            fronts[before:, UP : UP + rows] = states
            self.past[layer] = fronts[count:]
            starts = zip(before - self.back, UP + self.down, strict=True)
            return [fronts[front : front + count, row : row + rows] for front, row in starts]

        params = self.network(features, see)
        self.top = slab.top
        return params[inside] if inside is not None else params.flatten(0, 1)

    def pixels(self, slab: Slab) -> IntArray:
        """Where the pixels of a slab lie in `values`, `(n,)`."""
        places: IntArray = (slab.row * self.width + slab.col)[slab.inside]
        return places

    def _sources(self, slab: Slab) -> IntArray:
        """Where the values around each pixel lie, `(s, r, 17)`: the nearest there is for one that is not there."""
        row, col = slab.row, slab.col
        margins = [
            np.minimum(row, UP), np.minimum(self.height - 1 - row, DOWN),
            col.clip(0, SIDE), (self.width - 1 - col).clip(0, SIDE),
        ]  # fmt: skip
        chosen = _CHOICES[tuple(margins)]  # (s, r, 17)
        offset = OFFSETS[chosen]
        place = (row[..., None] + offset[..., 0]) * self.width + col[..., None] + offset[..., 1]
        return np.where((chosen >= 0) & slab.inside[..., None], place, self.height * self.width)


def _choices() -> IntArray:
    """For each of the pixels above, below, left and right that there are: which offset stands for each; -1 for none."""
    shape = (UP + 1, DOWN + 1, SIDE + 1, SIDE + 1)
    table = np.empty((*shape, len(OFFSETS)), np.int64)
    near = [sorted(range(len(OFFSETS)), key=lambda i: math.hypot(*(OFFSETS[i] - own))) for own in OFFSETS]
    for above, below, left, right in product(*map(range, shape)):
        rows, cols = OFFSETS.T
        there = (rows >= -above) & (rows <= below) & (cols >= -left) & (cols <= right)
        table[above, below, left, right] = [next((i for i in order if there[i]), -1) for order in near]
    return table


_CHOICES = _choices()
