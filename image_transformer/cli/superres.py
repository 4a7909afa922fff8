"""`image-transformer superres`: image files of any size enlarged, and the pictures of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from image_transformer.cli import UsageError
from image_transformer.cli.flags import (
    at_least,
    file_arguments,
    model_argument,
    parse,
    say,
    told,
    with_conditions,
)
from image_transformer.config.sampling import Sampling
from image_transformer.geometry.boxes import nearest
from image_transformer.show import grids

MANY_TILES = 2000  # from here on the user is told that it takes long
MOST_SHOWN = 512  # px, of an image in a picture of several


@dataclass(frozen=True)
class Superres(Sampling):
    """Enlarge image files of any size, each in several ways, by a model for super-resolution.

    A file's pixels are the low-resolution image: to try it with a photograph, shrink that with --size. For each
    NAME.jpg the folder gets NAME-1.png, NAME-2.png, ..., the plain enlargements NAME-nearest.png and NAME-bicubic.png,
    and NAME.png with all of them side by side; what is there already is replaced, except for the given files.
    """

    factor: int | None = None
    """Refuse a model that does not enlarge by this factor."""
    samples: int = 4
    """Enlargements of each image."""
    consistent: bool = False
    """Draw only images whose box means equal the given image exactly."""
    size: tuple[int, int] | None = None
    """Resize the image files to this height and width first."""
    out: Path = Path("enlarged")
    """Folder for the pictures."""


def run(args: list[str]) -> None:
    path, rest = model_argument("superres", args)
    files, rest = file_arguments(rest)
    chosen = parse(with_conditions(Superres), "superres MODEL IMAGE...", rest)
    if not files:
        raise UsageError("superres needs images: image-transformer superres MODEL IMAGE... [flags]")
    at_least(1, samples=chosen.samples)

    from image_transformer.checkpoint import load
    from image_transformer.data.loading import load_file
    from image_transformer.inference.enlarging import enlarge_each, model_factor, tiling
    from image_transformer.show.progress import bar

    model = load(path)
    factor = model_factor(model, chosen.factor)
    given = told(chosen, model.config, needed=True)
    if chosen.out.exists() and not chosen.out.is_dir():
        raise UsageError(f"--out {chosen.out} is a file, expected a folder")
    lows = [load_file(file, model.config.shape[0], size=chosen.size) for file in files]
    tiles = sum(tiling(model, (low.shape[1], low.shape[2])).tiles for low in lows)
    print(f"images: {len(lows)}, tiles: {tiles:,}, samples of each: {chosen.samples}", flush=True)
    if tiles * chosen.samples > MANY_TILES:
        many = f"{tiles * chosen.samples:,} tiles take long, often hours"
        say(f"{many}; --size HEIGHT WIDTH shrinks the images first")
    of_file, done = names(files, chosen.out, chosen.samples), {}
    with bar("steps") as progress:
        for number, images in enlarge_each(
            model, lows, samples=chosen.samples, consistent=chosen.consistent, progress=progress,
            **chosen.options(), **given,
        ):  # fmt: skip
            done[number] = write(chosen.out, of_file[number], lows[number], images, factor)
    print(chosen.out, *(done[number] for number in sorted(done)), sep="\n")


def names(files: Sequence[Path], out: Path, samples: int) -> list[str]:
    """For each file the name of its pictures: its own, with _2, _3, ... where they would replace others or a file."""
    taken, chosen = {file.resolve() for file in files}, []
    for file in files:
        for number in count(1):
            name = file.stem if number == 1 else f"{file.stem}_{number}"
            paths = {path.resolve() for path in _paths(out, name, samples)}
            if taken.isdisjoint(paths):
                break
        taken |= paths
        chosen.append(name)
    return chosen


def write(out: Path, name: str, low: NDArray[np.uint8], images: NDArray[np.uint8], factor: int) -> Path:
    """Write the enlargements (samples, c, f h, f w) of `low` (c, h, w), two plain ones, and a picture of all of them.

    The picture's path is returned. In it no image has more than `MOST_SHOWN` rows or columns: larger ones are shrunk.
    """
    from image_transformer.measures.quality import bicubic

    every = np.concatenate([nearest(low[None], factor), bicubic(low[None], factor), images])
    picture, *paths = _paths(out, name, len(images))
    for image, path in zip(every, paths, strict=True):
        grids.save_png(grids.picture(image), path)
    shown = _shrunk(every)
    width = grids.PAGE_WIDTH // len(shown)
    scale = max(1, min(width // shown.shape[3], MOST_SHOWN // shown.shape[2]))
    headers = ["nearest", "bicubic", *["samples"] * len(images)]
    grids.save_png(grids.labelled_rows([("", shown)], headers, scale), picture)
    return picture


def _paths(out: Path, name: str, samples: int) -> list[Path]:
    """Of the picture of all, of the two plain enlargements, of the samples."""
    return [
        out / f"{name}{ending}.png" for ending in ("", "-nearest", "-bicubic", *(f"-{i + 1}" for i in range(samples)))
    ]


def _shrunk(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The images, by a whole factor smaller if they have more than `MOST_SHOWN` rows or columns."""
    by = -(-max(images.shape[2:]) // MOST_SHOWN)
    if by == 1:
        return images
    planes = [np.asarray(Image.fromarray(plane).reduce(by)) for plane in images.reshape(-1, *images.shape[2:])]
    return np.stack(planes).reshape(*images.shape[:2], *planes[0].shape)
