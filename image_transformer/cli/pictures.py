"""The folders of pictures that `superres` and `edit` write: one for each image drawn, and one of all side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from image_transformer.cli.flags import say, say_guidance
from image_transformer.show import grids

if TYPE_CHECKING:
    from image_transformer.model import ImageModel

MANY_TILES = 2000  # from here on the user is told that it takes long
MOST_SHOWN = 512  # px, of an image in a picture of several


class Way(NamedTuple):
    """An image of a picture of several: its header, itself, and the ending of its own file, if it has one."""

    header: str
    image: NDArray[np.uint8]  # (c, h, w)
    ending: str | None = None


def draw_files(
    model: ImageModel, name: str, files: Sequence[Path], images: Sequence[NDArray[np.uint8]], chosen: Any,
    ways: Callable[[NDArray[np.uint8]], list[Way]], header: str, factor: int = 1, **how: Any,
) -> None:  # fmt: skip
    """Draw for each of the `files`, as `images` (c, h, w) told under `name`, and write and print what comes of it.

    chosen: the verb's flags, samples and out among them. ways: what an image is shown beside. header: of the samples.
    """
    from image_transformer.inference.tiled import draw_each, tiling
    from image_transformer.show.progress import bar

    tiles = sum(tiling(model, (image.shape[1], image.shape[2]), factor).tiles for image in images)
    print(f"images: {len(images)}, tiles: {tiles:,}, samples of each: {chosen.samples}", flush=True)
    if tiles * chosen.samples > MANY_TILES:
        say(f"{tiles * chosen.samples:,} tiles take long, often hours; --size HEIGHT WIDTH shrinks the images first")
    say_guidance(chosen.guidance)
    own = [way.ending for way in ways(images[0]) if way.ending]
    taken, done = names(files, chosen.out, [*own, *numbered(chosen.samples)]), {}
    with bar("pixels") as progress:
        for number, drawn in draw_each(
            model, name, images, factor, samples=chosen.samples, progress=progress, **chosen.options(), **how
        ):
            every = [*ways(images[number]), *map(Way, [header] * len(drawn), drawn, numbered(len(drawn)))]
            done[number] = write(chosen.out, taken[number], every)
    print(chosen.out, *(done[number] for number in sorted(done)), sep="\n")


def load_files(files: Sequence[Path], model: ImageModel, chosen: Any) -> list[NDArray[np.uint8]]:
    """The files as the model wants them, (c, h, w) each."""
    from image_transformer.data.loading import load_file

    return [load_file(file, model.config.shape[0], size=chosen.size) for file in files]


def names(files: Sequence[Path], out: Path, endings: Sequence[str]) -> list[str]:
    """For each file the name of its pictures: its own, with _2, _3, ... where they would replace others or a file."""
    taken, chosen = {file.resolve() for file in files}, []
    for file in files:
        for number in count(1):
            name = file.stem if number == 1 else f"{file.stem}_{number}"
            own = {path_of(out, name, ending).resolve() for ending in ("", *endings)}
            if taken.isdisjoint(own):
                break
        taken |= own
        chosen.append(name)
    return chosen


def path_of(out: Path, name: str, ending: str = "") -> Path:
    """Of a picture of an image."""
    return out / f"{name}{ending}.png"


def numbered(samples: int) -> list[str]:
    """The endings of so many samples."""
    return [f"-{number}" for number in range(1, samples + 1)]


def write(out: Path, name: str, ways: Sequence[Way]) -> Path:
    """Write each image that has an ending, all of one size, and a picture of all, whose path is returned.

    In it no image has more than `MOST_SHOWN` rows or columns: larger ones are shrunk.
    """
    for way in ways:
        if way.ending is not None:
            grids.save_png(grids.picture(way.image), path_of(out, name, way.ending))
    shown = _shrunk(np.stack([way.image for way in ways]))
    width = grids.PAGE_WIDTH // len(shown)
    scale = max(1, min(width // shown.shape[3], MOST_SHOWN // shown.shape[2]))
    picture = path_of(out, name)
    grids.save_png(grids.labelled_rows([("", shown)], [way.header for way in ways], scale), picture)
    return picture


def _shrunk(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The images, by a whole factor smaller if they have more than `MOST_SHOWN` rows or columns."""
    by = -(-max(images.shape[2:]) // MOST_SHOWN)
    if by == 1:
        return images
    planes = [np.asarray(Image.fromarray(plane).reduce(by)) for plane in images.reshape(-1, *images.shape[2:])]
    return np.stack(planes).reshape(*images.shape[:2], *planes[0].shape)
