"""When each position is generated, and where its keys and values are kept until nothing can see them any more.

Derived from the order's fronts, the patterns and the inputs of the slots, not from a special case: positions whose
values cannot reach each other through any number of layers are generated in one step. Geometry only, in NumPy.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from image_transformer.geometry.order import IntArray, Layout
from image_transformer.geometry.patterns import BoolArray, Sight, tiles


@dataclass(frozen=True, eq=False)
class Schedule:
    """The step in which each position is generated, `(l,)`: 0, 1, 2, ... without gaps."""

    step: IntArray

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and np.array_equal(self.step, other.step)

    def __hash__(self) -> int:
        return hash(self.step.tobytes())

    @cached_property
    def steps(self) -> list[IntArray]:
        """The positions of each step, ascending."""
        by_step = np.argsort(self.step, kind="stable")
        return np.split(by_step, np.flatnonzero(np.diff(self.step[by_step])) + 1)


def front_by_front(layout: Layout) -> Schedule:
    """The order's own fronts: right for every network, if not always the shortest."""
    return Schedule(np.unique(layout.positions.front, return_inverse=True)[1])


def as_early_as_possible(
    patterns: Sequence[Sight], inputs: IntArray, layout: Layout, known: BoolArray | None = None
) -> Schedule:
    """Each position as soon as all that it depends on is there; exact, whatever the depth of the network.

    inputs: the positions whose values enter each slot, `(l, n)`, -1 for none. known: positions whose values are given
    beforehand, `(l,)`; nothing waits for their values.

    A slot can be computed together with the slots it sees, and one step after the values that enter it:
    step(q) = max(step(k) for all slots k it sees, step(v) + 1 for all unknown values v that enter it).
    """
    unknown = np.ones(layout.num_positions, np.bool_) if known is None else ~known
    seen = [_Seen(pattern, layout) for pattern in dict.fromkeys(patterns)]
    front = layout.positions.front
    step = np.zeros(layout.num_positions, np.int64)
    drawn = np.zeros(layout.num_positions + 1, np.int64)  # first step that finds the value drawn; the last: no value
    latest = 0
    for members in np.split(np.arange(len(front)), np.flatnonzero(np.diff(front)) + 1):
        step[members] = drawn[inputs[members]].max(1, initial=0)
        if step[members].min() < max(latest, step[members].max()):  # else nothing that they see can delay them
            _wait_for_seen(step, members, seen)
        latest = max(latest, int(step[members].max()))
        drawn[members] = (step[members] + 1) * unknown[members]
    return Schedule(np.unique(step, return_inverse=True)[1])


def _wait_for_seen(step: IntArray, members: IntArray, seen: list[_Seen]) -> None:
    """Raise the steps of one front's positions to those of the slots they see, their own front's among them."""
    while True:
        before = step[members].copy()
        for keys in seen:
            for q in members:
                step[q] = max(step[q], step[keys(q)].max())
        if np.array_equal(step[members], before):
            return


class _Seen:
    """The slots that a query sees, looked up in the tiles of a pattern."""

    def __init__(self, pattern: Sight, layout: Layout) -> None:
        self.groups = tiles(pattern, layout)
        self.group, self.tile, self.row = np.empty((3, layout.num_positions), np.int64)
        for i, group in enumerate(self.groups):
            self.group[group.queries] = i
            self.tile[group.queries], self.row[group.queries] = np.indices(group.queries.shape)

    def __call__(self, query: int) -> IntArray:
        group, tile = self.groups[self.group[query]], self.tile[query]
        allowed = group.allowed[tile if len(group.allowed) > 1 else 0, self.row[query]]
        return group.keys[tile, allowed]


@dataclass(frozen=True, eq=False)
class CachePlan:
    """Which slot of the key/value cache each position is written to, and which slots each query may read.

    slot `(l,)`, -1 for what is never read from the cache; allowed `(l, slots)`.
    """

    slot: IntArray
    allowed: BoolArray


@lru_cache(maxsize=16)  # masks of large images are large
def cache_plan(pattern: Sight, layout: Layout, schedule: Schedule, prefilled: bool = False) -> CachePlan:
    """The smallest cache that holds, at every step, all that the pattern can still see.

    A slot is given to a new position once no later step reads its old one. If step 0 is `prefilled`, that is
    computed in one pass without the cache, only what later steps see of it is kept.
    """
    step, length = schedule.step, layout.num_positions
    last_read = step.copy()
    for group in tiles(pattern, layout):
        last = np.max(np.where(group.allowed, step[group.queries][:, :, None], -1), axis=1)  # (n, k)
        np.maximum.at(last_read, group.keys, last)
    slot = np.full(length, -1)
    in_use: list[tuple[int, int]] = []  # (last step that reads the slot, slot)
    num_slots = 0
    for position in np.argsort(step, kind="stable").tolist():
        if prefilled and last_read[position] == 0:
            continue
        if in_use and in_use[0][0] < step[position]:
            slot[position] = heapq.heappop(in_use)[1]
        else:
            slot[position] = num_slots
            num_slots += 1
        heapq.heappush(in_use, (int(last_read[position]), int(slot[position])))
    p = layout.positions
    held = np.full(num_slots, -1)
    allowed = np.zeros((length, num_slots), np.bool_)
    for number, members in enumerate(schedule.steps):
        kept = members[slot[members] >= 0]
        held[slot[kept]] = kept
        if number or not prefilled:
            allowed[members] = (held >= 0) & pattern.sees(p[members][:, None], p[held][None])
    return CachePlan(slot, allowed)
