"""Attention patterns: who may attend to whom, causality included.

A pattern is a small frozen value that answers one question, `sees(query, key)`. The tiles that the fast path
computes and the receptive field are derived from that answer here; what is generated when, and the slots of the
key/value cache, in `schedule.py`. Geometry only, in NumPy; the arithmetic on tensors is in `attention.py`.

A query may see its own slot and its own front's, because the input of a slot is made only of earlier fronts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from image_transformer.geometry.order import IntArray, Layout, Positions

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Full:
    """Every position sees all that was generated before it: cost grows with the square of the positions."""

    name: ClassVar[str] = "full"

    def sees(self, q: Positions, k: Positions) -> BoolArray:
        return k.front <= q.front

    def block(self, p: Positions) -> IntArray:
        return np.zeros_like(p.index)

    def nearby(self, q: Positions, layout: Layout) -> IntArray:
        return np.arange(layout.num_positions)


@dataclass(frozen=True)
class Local1D:
    """Query blocks of `query` consecutive positions; each also sees the `memory` positions before its block.

           |<-- memory -->|<-- query -->|
    . . . .|k k k k k k k |k k k q      |. . . .
    """

    query: int
    memory: int
    name: ClassVar[str] = "local1d"

    def __post_init__(self) -> None:
        if self.query < 1 or self.memory < 0:
            raise ValueError(f"local1d needs query >= 1 and memory >= 0, got {self.query} and {self.memory}")

    def sees(self, q: Positions, k: Positions) -> BoolArray:
        start = q.index // self.query * self.query
        return (k.front <= q.front) & (k.index >= start - self.memory) & (k.index < start + self.query)

    def block(self, p: Positions) -> IntArray:
        return p.index // self.query

    def nearby(self, q: Positions, layout: Layout) -> IntArray:
        start = int(q.index.min()) // self.query * self.query
        return np.arange(max(0, start - self.memory), min(start + self.query, layout.num_positions))


@dataclass(frozen=True)
class Local2D:
    r"""Query blocks of `query` = (rows, columns) pixels; each also sees `memory` rows above and columns to both sides.

       k k k k k k k k k   \ memory[0] rows, reaching memory[1] columns to both sides
       k k k k k k k k k   /
       k k k[k k k]          the block itself up to the query,
       k k k[k q  ]          and memory[1] columns to its left: to its right nothing is generated yet

    Sizes are whole pixels. Meant for `BlockRaster` with the same block; with other orders the same rectangle is
    seen, so far as it is generated.
    """

    query: tuple[int, int]
    memory: tuple[int, int]
    name: ClassVar[str] = "local2d"

    def __post_init__(self) -> None:
        if min(self.query) < 1 or min(self.memory) < 0:
            raise ValueError(f"local2d needs query >= 1 and memory >= 0, got {self.query} and {self.memory}")

    def sees(self, q: Positions, k: Positions) -> BoolArray:
        top = q.row // self.query[0] * self.query[0]
        left = q.col // self.query[1] * self.query[1]
        in_rows = (k.row >= top - self.memory[0]) & (k.row < top + self.query[0])
        beside = self.memory[1] * (k.row < top)
        in_cols = (k.col >= left - self.memory[1]) & (k.col < left + self.query[1] + beside)
        return (k.front <= q.front) & in_rows & in_cols

    def block(self, p: Positions) -> IntArray:
        across = int(p.col.max()) // self.query[1] + 1
        return p.row // self.query[0] * across + p.col // self.query[1]

    def nearby(self, q: Positions, layout: Layout) -> IntArray:
        top = int(q.row.min()) // self.query[0] * self.query[0]
        left = int(q.col.min()) // self.query[1] * self.query[1]
        rows = slice(max(0, top - self.memory[0]), top + self.query[0] + self.memory[0])  # those below: `Around`
        cols = slice(max(0, left - self.memory[1]), left + self.query[1] + self.memory[1])
        return np.sort(layout.at[rows, cols].reshape(-1))


@dataclass(frozen=True)
class Dilated:
    """Query blocks that also see `count` memory blocks of `memory` positions, each after a gap of `gap` positions.

    |k k k|. . .|k k k|. . .|k k q  |        query = 4, memory = 3, count = 2, gap = 3
    """

    query: int
    memory: int
    count: int
    gap: int
    name: ClassVar[str] = "dilated"

    def __post_init__(self) -> None:
        if self.query < 1 or self.memory < 1 or self.count < 0 or self.gap < 0:
            raise ValueError(f"dilated needs query, memory >= 1 and count, gap >= 0, got {self}")

    def sees(self, q: Positions, k: Positions) -> BoolArray:
        start = q.index // self.query * self.query
        before = start - 1 - k.index  # 0 for the position just before the block
        period = self.gap + self.memory
        remembered = (before >= 0) & (before // period < self.count) & (before % period >= self.gap)
        own = (before < 0) & (k.index < start + self.query)
        return (k.front <= q.front) & (own | remembered)

    def block(self, p: Positions) -> IntArray:
        return p.index // self.query

    def nearby(self, q: Positions, layout: Layout) -> IntArray:
        start = int(q.index.min()) // self.query * self.query
        reach = self.count * (self.gap + self.memory)
        return np.arange(max(0, start - reach), min(start + self.query, layout.num_positions))


class Around(Local2D):
    """The same blocks of pixels; each sees `memory` rows and columns on all sides, causal or not.

    For keys of images that are given whole, never of those that are generated.
    """

    def sees(self, q: Positions, k: Positions) -> BoolArray:
        seen = np.ones(np.broadcast_shapes(q.row.shape, k.row.shape), np.bool_)
        for own, other, block, reach in zip((q.row, q.col), (k.row, k.col), self.query, self.memory, strict=True):
            start = own // block * block
            seen &= (other >= start - reach) & (other < start + block + reach)
        return seen


@dataclass(frozen=True)
class Nothing:
    """No attention: the layer is a feed-forward layer alone."""

    name: ClassVar[str] = "none"

    def sees(self, q: Positions, k: Positions) -> BoolArray:
        return k.index == q.index

    def block(self, p: Positions) -> IntArray:
        return p.index // 32

    def nearby(self, q: Positions, layout: Layout) -> IntArray:
        return q.index


@dataclass(frozen=True)
class Near:
    """Each position also sees the positions at `offsets` (rows down, columns right), those in earlier fronts.

    Not a pattern of attention: which states a layer mixes into a position's own, see `networks/mixing.py`.
    """

    offsets: tuple[tuple[int, int], ...]

    def sees(self, q: Positions, k: Positions) -> BoolArray:
        down, right = k.row - q.row, k.col - q.col
        near = np.logical_or.reduce([(down == a) & (right == b) for a, b in self.offsets])
        return (near & (k.front < q.front) & (k.channel == q.channel)) | (k.index == q.index)

    def block(self, p: Positions) -> IntArray:
        return p.row

    def nearby(self, q: Positions, layout: Layout) -> IntArray:
        down = np.array([0, *(down for down, _ in self.offsets)])
        rows = np.unique(q.row[:, None] + down)
        return np.sort(layout.at[rows[(rows >= 0) & (rows < layout.height)]].reshape(-1))

    def table(self, layout: Layout) -> IntArray:
        """The position at each offset from each position, `(offsets, l)`, -1 where there is none."""
        p, found = layout.positions, []
        for down, right in self.offsets:
            row, col = p.row + down, p.col + right
            inside = (row >= 0) & (row < layout.height) & (col >= 0) & (col < layout.width)
            at = layout.at[np.where(inside, row, 0), np.where(inside, col, 0), p.channel]
            found.append(np.where(inside & (p.front[at] < p.front), at, -1))
        return np.stack(found)


Pattern = Full | Local1D | Local2D | Dilated | Nothing
Sight = Pattern | Near | Around  # all that says who sees whom


def attends(pattern: Pattern) -> bool:
    """Whether layers of this pattern attend at all."""
    return not isinstance(pattern, Nothing)


@dataclass(frozen=True, eq=False)
class Tiles:
    """Query blocks of one shape, so that one dense call computes them all.

    queries `(n, m)` and keys `(n, k)` are positions; allowed is the mask `(n, m, k)`, or `(1, m, k)` shared by all n.
    """

    queries: IntArray
    keys: IntArray
    allowed: BoolArray


@lru_cache(maxsize=64)
def tiles(pattern: Sight, layout: Layout, of_keys: Layout | None = None) -> tuple[Tiles, ...]:
    """The pattern as full tiles: every query is in exactly one, beside all keys that its block sees.

    Derived from `sees`. Blocks cut off by an edge of the image form tiles of their own, so nothing is padded. of_keys:
    the layout of the keys, where it is not that of the queries.
    """
    p, k = layout.positions, (of_keys or layout).positions
    block = pattern.block(p)
    by_block = np.argsort(block, kind="stable")
    members = np.split(by_block, np.flatnonzero(np.diff(block[by_block])) + 1)
    groups: dict[tuple[int, ...], list[tuple[IntArray, IntArray, BoolArray]]] = {}
    for queries in members:
        keys = pattern.nearby(p[queries], of_keys or layout)
        allowed = pattern.sees(p[queries][:, None], k[keys][None])
        seen = allowed.any(0)
        keys, allowed = keys[seen], allowed[:, seen]
        groups.setdefault(allowed.shape, []).append((queries, keys, allowed))
    return tuple(_stacked(group) for group in groups.values())


def _stacked(group: list[tuple[IntArray, IntArray, BoolArray]]) -> Tiles:
    queries, keys, masks = zip(*group, strict=True)
    shared = all(np.array_equal(mask, masks[0]) for mask in masks)
    return Tiles(np.stack(queries), np.stack(keys), np.stack(masks[:1] if shared else masks))
