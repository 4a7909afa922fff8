"""Images that are made, not read: grey, 16 x 16, of two levels, such that all their bits are known.

Each holds random bits in one place and repeats them in another, so a model needs them once, if it sees that far.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SIDE, LEVELS = 16, np.array([64, 192], np.uint8)
COUNTS = {"train": 20_000, "validation": 1_000, "test": 1_000}


def mirror(bits: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The right half is the mirror image of the left one."""
    left = LEVELS[bits[:, :, : SIDE // 2]]
    return np.concatenate([left, left[:, :, ::-1]], 2)


def twins(bits: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Two patches of 4 x 4 at opposite corners agree; the rest is grey."""
    images = np.full(bits.shape, 128, np.uint8)
    images[:, 1:5, 1:5] = images[:, 11:15, 11:15] = LEVELS[bits[:, :4, :4]]
    return images


def bar(bits: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Vertical stripes that go on behind a bar."""
    images = np.broadcast_to(LEVELS[bits[:, :1]], bits.shape).copy()
    images[:, 5:11] = 128
    return images


MADE: dict[str, tuple[Callable[[NDArray[np.int64]], NDArray[np.uint8]], int]] = {
    "mirror": (mirror, SIDE * SIDE // 2), "twins": (twins, 16), "bar": (bar, SIDE),
}  # fmt: skip
"""By name: what makes the images of random bits (n, 16, 16), and how many bits there are to an image."""


def ideal_bits_per_dim(name: str) -> float:
    """What a perfect model needs."""
    return MADE[name][1] / SIDE**2


def make_splits(name: str) -> dict[str, NDArray[np.uint8]]:
    """Images (n, 1, 16, 16) by split: a function of the name alone."""
    make, splits = MADE[name][0], {}
    for number, (split, count) in enumerate(COUNTS.items()):
        raw = np.random.PCG64([*name.encode(), number]).random_raw(count * SIDE**2)  # raw streams never change
        splits[split] = make((raw >> np.uint64(63)).astype(np.int64).reshape(count, SIDE, SIDE))[:, None]
    return splits
