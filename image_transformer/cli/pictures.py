"""The folders of pictures that `superres` and `edit` write: one for each image drawn, and one of all side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from image_transformer.cli.flags import say
from image_transformer.show import grids

MANY_TILES = 2000  # from here on the user is told that it takes long
MOST_SHOWN = 512  # px, of an image in a picture of several


def announce(images: int, tiles: int, samples: int) -> None:
    """What is going to be drawn, and whether that takes long."""
    print(f"images: {images}, tiles: {tiles:,}, samples of each: {samples}", flush=True)
    if tiles * samples > MANY_TILES:
        say(f"{tiles * samples:,} tiles take long, often hours; --size HEIGHT WIDTH shrinks the images first")


def names(files: Sequence[Path], out: Path, endings: Sequence[str]) -> list[str]:
    """For each file the name of its pictures: its own, with _2, _3, ... where they would replace others or a file."""
    taken, chosen = {file.resolve() for file in files}, []
    for file in files:
        for number in count(1):
            name = file.stem if number == 1 else f"{file.stem}_{number}"
            own = {path.resolve() for path in paths(out, name, ("", *endings))}
            if taken.isdisjoint(own):
                break
        taken |= own
        chosen.append(name)
    return chosen


def paths(out: Path, name: str, endings: Sequence[str]) -> list[Path]:
    """Of the pictures of an image."""
    return [out / f"{name}{ending}.png" for ending in endings]


def numbered(samples: int) -> list[str]:
    """The endings of so many samples."""
    return [f"-{number}" for number in range(1, samples + 1)]


def write(
    out: Path, name: str, every: NDArray[np.uint8], headers: Sequence[str], endings: Sequence[str | None]
) -> Path:
    """Write each image of `every` (n, c, h, w) under its ending, if any, and a picture of all, whose path is returned.

    In it no image has more than `MOST_SHOWN` rows or columns: larger ones are shrunk.
    """
    for image, ending in zip(every, endings, strict=True):
        if ending is not None:
            grids.save_png(grids.picture(image), out / f"{name}{ending}.png")
    shown = _shrunk(every)
    width = grids.PAGE_WIDTH // len(shown)
    scale = max(1, min(width // shown.shape[3], MOST_SHOWN // shown.shape[2]))
    picture = out / f"{name}.png"
    grids.save_png(grids.labelled_rows([("", shown)], headers, scale), picture)
    return picture


def _shrunk(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The images, by a whole factor smaller if they have more than `MOST_SHOWN` rows or columns."""
    by = -(-max(images.shape[2:]) // MOST_SHOWN)
    if by == 1:
        return images
    planes = [np.asarray(Image.fromarray(plane).reduce(by)) for plane in images.reshape(-1, *images.shape[2:])]
    return np.stack(planes).reshape(*images.shape[:2], *planes[0].shape)
