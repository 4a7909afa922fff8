"""The tiles that cover an image of any size, and what each waits for. Geometry only, in NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from image_transformer.geometry.order import IntArray
from image_transformer.geometry.patterns import BoolArray


@dataclass(frozen=True)
class Group:
    """Tiles that are drawn together, by their numbers, and the low-resolution pixels of each that are known."""

    tiles: list[int]
    known: BoolArray


class Tiling:
    """The tiles, numbered row by row, that cover an image, and what each waits for; in low-resolution pixels.

    size: of the covered area, (rows, columns): at least a tile.
    """

    def __init__(self, given: tuple[int, int], tile: tuple[int, int]) -> None:
        self.tile = tile
        self.size = (max(given[0], tile[0]), max(given[1], tile[1]))
        self.tops, self.lefts = (starts(length, one) for length, one in zip(self.size, tile, strict=True))
        self.tiles = len(self.tops) * len(self.lefts)

    def window(self, number: int, factor: int = 1) -> tuple[Any, slice, slice]:
        """An index of the pixels of a tile in images (..., rows, columns), `factor` times as large."""
        (height, width), (i, j) = self.tile, divmod(number, len(self.lefts))
        top, left = int(self.tops[i]), int(self.lefts[j])
        return ..., slice(factor * top, factor * (top + height)), slice(factor * left, factor * (left + width))

    def known(self, number: int) -> BoolArray:
        """Which pixels of a tile those before it have drawn: all that the row above and the tile to its left reach."""
        i, j = divmod(number, len(self.lefts))
        known = np.zeros(self.tile, np.bool_)
        if i:
            known[: self.tops[i - 1] + self.tile[0] - self.tops[i]] = True
        if j:
            known[:, : self.lefts[j - 1] + self.tile[1] - self.lefts[j]] = True
        return known

    def groups(self) -> list[Group]:
        """All tiles, in the order in which they are drawn: each after those that draw something of it, like with like.

        Tile (i, j) waits for (i - 1, j) and (i, j - 1), and with them for those before them. It also lies partly in
        (i - 1, j + 1), but no pixel that is drawn there and not in (i - 1, j) is its own. So the tiles of equal i + j
        go together, save that `generate` wants the same places known in all images.
        """
        found: dict[tuple[int, bytes], Group] = {}
        for number in range(self.tiles):
            i, j = divmod(number, len(self.lefts))
            known = self.known(number)
            found.setdefault((i + j, known.tobytes()), Group([], known)).tiles.append(number)
        return [found[key] for key in sorted(found)]


def starts(length: int, tile: int) -> IntArray:
    """Where tiles begin along an axis, half a tile apart, rounded up, and the last one at the end, `(tiles,)`."""
    last = length - tile
    return np.append(np.arange(0, last, -(-tile // 2)), last)
