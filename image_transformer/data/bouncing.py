"""Clips that are made, not read: a digit that flies and bounces, grey, 16 x 16, such that all their bits are known.

The first frame says which digit and where, the second which way it flies; all others follow from them. In
`bouncing-noisy` every pixel has four random bits besides. A function of a seed; no torch.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

SIDE, LENGTH = 16, 20
BOUNCING = ("bouncing", "bouncing-noisy")
COUNTS = {"train": 2_000, "validation": 100, "test": 100}
INK, NOISE = 192, 16  # levels; noise is below NOISE
SPEEDS = (-2, -1, 1, 2)  # pixels a frame, of rows and of columns
GLYPHS = (
    "###/#.#/#.#/#.#/###", ".#./##./.#./.#./###", "###/..#/###/#../###", "###/..#/.##/..#/###", "#.#/#.#/###/..#/..#",
    "###/#../###/..#/###", "###/#../###/#.#/###", "###/..#/.#./.#./.#.", "###/#.#/###/#.#/###", "###/#.#/###/..#/###",
)  # fmt: skip
HEIGHT, WIDTH = 5, 3
DIGITS = np.array([[[mark == "#" for mark in row] for row in glyph.split("/")] for glyph in GLYPHS])  # (10, 5, 3)


def make_clips(name: str, split: str) -> NDArray[np.uint8]:
    """Clips (n, t, 1, 16, 16): a function of the names alone."""
    count, number = COUNTS[split], list(COUNTS).index(split)
    dice = _below(f"bouncing {number}", (count, 5), (len(DIGITS), SIDE - HEIGHT + 1, SIDE - WIDTH + 1, 4, 4))
    clips = np.zeros((count, LENGTH, 1, SIDE, SIDE), np.uint8)
    for clip, (digit, row, col, down, right) in zip(clips, dice, strict=True):
        rows, columns = _path(row, SPEEDS[down], SIDE - HEIGHT), _path(col, SPEEDS[right], SIDE - WIDTH)
        for frame, top, left in zip(clip, rows, columns, strict=True):
            frame[0, top : top + HEIGHT, left : left + WIDTH] = INK * DIGITS[digit]
    if name == "bouncing-noisy":
        clips += _below(f"noise {number}", clips.shape, (NOISE,)).astype(np.uint8)
    return clips


def ideal_bits(name: str) -> NDArray[np.float64]:
    """What a perfect model needs for each frame of a clip, (t,)."""
    bits = np.zeros(LENGTH)
    bits[0] = math.log2(len(DIGITS) * (SIDE - HEIGHT + 1) * (SIDE - WIDTH + 1))
    bits[1] = _bits_of_speeds(SIDE - HEIGHT) + _bits_of_speeds(SIDE - WIDTH)
    return bits + (math.log2(NOISE) * SIDE**2 if name == "bouncing-noisy" else 0)


def _bits_of_speeds(last: int) -> float:
    """The bits that the second place says of a speed, on average over first places."""
    total = 0.0
    for place in range(last + 1):
        seconds = [_path(place, speed, last)[1] for speed in SPEEDS]
        shares = np.unique(seconds, return_counts=True)[1] / len(SPEEDS)
        total -= float((shares * np.log2(shares)).sum())
    return total / (last + 1)


def _path(place: int, speed: int, last: int) -> list[int]:
    """Places from 0 to `last`; at an end the way turns round."""
    ahead = (place if speed > 0 else 2 * last - place) + abs(speed) * np.arange(LENGTH)
    around = ahead % (2 * last)
    return np.where(around <= last, around, 2 * last - around).tolist()


def _below(what: str, shape: tuple[int, ...], below: tuple[int, ...]) -> NDArray[np.int64]:
    """Whole numbers from 0, the last axis below each of `below`, from a raw stream, which never changes."""
    raw = np.random.PCG64([*what.encode()]).random_raw(math.prod(shape)) >> np.uint64(32)
    return (raw.reshape(*shape[:-1], -1, len(below)).astype(np.int64) * below >> 32).reshape(shape)
