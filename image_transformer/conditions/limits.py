"""Bounds on each value of an image whose box means are given exactly, in scoring and in drawing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from image_transformer.geometry.boxes import bounds, place_of_box, places_in_boxes
from image_transformer.geometry.order import Layout


class BoxLimits:
    """The smallest and largest values that leave the box means `low` (b, c, h / f, w / f) possible."""

    def __init__(self, low: Tensor, layout: Layout, factor: int) -> None:
        self.low, self.factor = low, factor
        boxes, box_of = places_in_boxes(layout, factor), place_of_box(layout, factor)
        self.boxes = torch.from_numpy(boxes).to(low.device)  # flat places of each box's values in order, (boxes, f^2)
        self.back = self.boxes.flatten().argsort()  # where each flat place is among the boxes' values
        self.box_of = torch.from_numpy(box_of).to(low.device)  # the box of each flat place in the image

    def of_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The bounds `(b, dims)` at each flat place, after the values of `images` (b, c, h, w) before it in its box."""
        in_boxes = images.flatten(1).long()[:, self.boxes]  # (b, boxes, n)
        left = torch.arange(self.factor**2 - 1, -1, -1, device=images.device)
        total = in_boxes.cumsum(-1) - in_boxes
        ends = bounds(self.low.flatten(1)[..., None], total, left, self.factor)
        lowest, highest = (end.flatten(1)[:, self.back] for end in ends)
        return lowest, highest

    def begin(self, flat: Tensor, fixed: Tensor) -> None:
        """Take in what is `fixed`, bool (b, dims), of images `flat` (b, dims) to be drawn; ValueError if impossible."""
        self.total = (flat * fixed)[:, self.boxes].sum(-1)  # (b, boxes) int64
        self.left = (~fixed)[:, self.boxes].sum(-1)
        low = self.low.flatten(1)
        lowest, highest = bounds(low, self.total, (self.left - 1).clamp(min=0), self.factor)
        full = (self.left == 0) & ((lowest > 0) | (highest < 0))
        impossible = full | ((self.left > 0) & (lowest > highest))
        if impossible.any():
            image, box = impossible.nonzero()[0].tolist()
            channel, row, col = np.unravel_index(box, self.low.shape[1:])
            raise ValueError(
                f"the known values of the box at row {row}, column {col}, channel {channel} sum to "
                f"{int(self.total[image, box])}: whatever the other {int(self.left[image, box])} are, "
                f"their mean cannot be {int(low[image, box])}"
            )

    def turns(self, places: Tensor) -> Iterator[Tensor]:
        """Numbers of the positions of a step, no two of one box at once, in order; `places` `(f,)`, one of each."""
        box = self.box_of[places]
        rank = (box[:, None] == box).tril(-1).sum(1)
        return ((rank == turn).nonzero()[:, 0] for turn in range(int(rank.max()) + 1))

    def at(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """The bounds `(b, f, v)` of what may be drawn now at the flat `places` `(f, v)`."""
        box = self.box_of[places]
        return bounds(self.low.flatten(1)[:, box], self.total[:, box], self.left[:, box] - 1, self.factor)

    def add(self, places: Tensor, drawn: Tensor, known: Tensor) -> None:
        """Take in the values `(b, f, v)` at `places`, no two of one box; what is `known` was counted before."""
        box = self.box_of[places]
        self.total[:, box] += drawn * ~known
        self.left[:, box] -= (~known).long()
