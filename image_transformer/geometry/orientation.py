"""The eight orientations of an image, and how much of what is given comes first in the generation order in each.

Geometry only, in NumPy. A model that was trained on images in several orientations may complete an image in the one
in which the given part comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from image_transformer.geometry.order import Layout

Images = TypeVar("Images", bound=Any)  # an array or a tensor


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to lay an image on its grid: transposed or not, then upside down or not, then mirrored."""

    transpose: bool = False
    vertical: bool = False
    """Swaps top and bottom, after the transposition."""
    horizontal: bool = False
    """Swaps left and right, after the transposition."""

    @property
    def name(self) -> str:
        """In words: "upside down"."""
        return _NAMES[self.transpose, self.vertical, self.horizontal]

    @property
    def word(self) -> str:
        """The name as one word of a command line: upside-down."""
        return self.name.replace(" ", "-")

    @property
    def inverse(self) -> Orientation:
        """The orientation that undoes this one: a flip before a transposition is the other flip after it."""
        return replace(self, vertical=self.horizontal, horizontal=self.vertical) if self.transpose else self

    def apply(self, images: Images) -> Images:
        """The images, an array or tensor (..., h, w), in this orientation; (..., w, h) if it transposes."""
        if self.transpose:
            images = images.swapaxes(-1, -2)
        if self.vertical:
            images = images[..., list(range(images.shape[-2]))[::-1], :]
        if self.horizontal:
            images = images[..., list(range(images.shape[-1]))[::-1]]
        return images


_NAMES = {
    (False, False, False): "as it is",
    (False, False, True): "flipped left-right",
    (False, True, False): "upside down",
    (False, True, True): "turned by 180",
    (True, False, False): "transposed",
    (True, False, True): "turned right by 90",
    (True, True, False): "turned left by 90",
    (True, True, True): "transposed and turned by 180",
}
EIGHT = tuple(Orientation(*flags) for flags in _NAMES)
AS_IT_IS, LEFT_RIGHT = EIGHT[:2]


def named(name: str, possible: Sequence[Orientation]) -> Orientation:
    """The one of `possible` with this name or word. ValueError, naming those that there are, if none has it."""
    for orientation in possible:
        if name.lower() in (orientation.name, orientation.word):
            return orientation
    words = ", ".join(orientation.word for orientation in possible)
    if any(name.lower() in (orientation.name, orientation.word) for orientation in EIGHT):
        raise ValueError(f"the model was not trained for the orientation {name}, only for: {words}")
    raise ValueError(f"unknown orientation {name!r}; this model knows: {words}")


def conditioned(layout: Layout, known: NDArray[np.bool_]) -> float:
    """How much of the known pixels, bool (h, w), the drawn ones are conditioned on, from 0 to 1.

    The fraction of all pairs (known position, drawn position) whose known one has the earlier front: the part of what
    is known that a drawn position depends on, on average. 1 if there is no such pair, for then nothing is left out.
    """
    fronts = layout.positions.front[layout.at]  # (h, w, channels or 1)
    given, drawn = np.sort(fronts[known].ravel()), fronts[~known].ravel()
    pairs = len(given) * len(drawn)
    return int(np.searchsorted(given, drawn, side="left").sum()) / pairs if pairs else 1.0


def most_conditioned(
    layout: Layout, known: NDArray[np.bool_], possible: Sequence[Orientation]
) -> tuple[Orientation, float]:
    """The one of `possible` in which most of `known`, bool (h, w), is conditioned on, and how much that is.

    Of equal ones the image as it is, else the first.
    """
    if not possible:
        raise ValueError("at least one orientation is needed")
    much = {orientation: conditioned(layout, orientation.apply(known)) for orientation in possible}
    best = max(much, key=lambda orientation: (much[orientation], orientation == AS_IT_IS))
    return best, much[best]
