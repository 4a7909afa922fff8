"""The folders of pictures that `superres` and `edit` write: one for each image drawn, and one of all side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from image_transformer.cli.flags import say, say_guidance
from image_transformer.show import grids

if TYPE_CHECKING:
    from image_transformer.model import ImageModel

MANY_TILES = 2000  # from here on the user is told that it takes long
MOST_SHOWN = 512  # px, of an image in a picture of several
Images = NDArray[np.uint8]  # (n, c, h, w)


def draw_files(
    model: ImageModel, name: str, files: Sequence[Path], images: Sequence[NDArray[np.uint8]], chosen: Any, header: str,
    factor: int = 1, beside: Mapping[str, Callable[[Images, int], Images]] | None = None, **how: Any,
) -> None:  # fmt: skip
    """Draw for each of the `files`, as `images` (c, h, w) told under `name`, and write and print what comes of it.

    chosen: the verb's flags, samples and out among them. header: of the samples. beside: what else enlarges images by
    a factor, shown before the samples and written, too; without any, what was given is shown.
    """
    from image_transformer.inference.tiled import draw_each, tiling
    from image_transformer.show.progress import bar

    tiles = sum(tiling(model, (image.shape[1], image.shape[2]), factor).tiles for image in images)
    print(f"images: {len(images)}, tiles: {tiles:,}, samples of each: {chosen.samples}", flush=True)
    if tiles * chosen.samples > MANY_TILES:
        say(f"{tiles * chosen.samples:,} tiles take long, often hours; --size HEIGHT WIDTH shrinks the images first")
    say_guidance(chosen.guidance)
    beside = beside or {}
    endings = [f"-{one}" for one in (*beside, *range(1, chosen.samples + 1))]
    taken, done = names(files, chosen.out, endings), {}
    with bar("pixels") as progress:
        for number, drawn in draw_each(
            model, name, images, factor, samples=chosen.samples, progress=progress, **chosen.options(), **how
        ):
            made = [*(make(images[number][None], factor)[0] for make in beside.values()), *drawn]
            for ending, image in zip(endings, made, strict=True):
                grids.save_png(grids.picture(image), chosen.out / f"{taken[number]}{ending}.png")
            shown = made if beside else [images[number], *made]
            done[number] = chosen.out / f"{taken[number]}.png"
            grids.save_png(
                side_by_side(np.stack(shown), [*(beside or ["given"]), *[header] * len(drawn)]), done[number]
            )
    print(chosen.out, *(done[number] for number in sorted(done)), sep="\n")


def names(files: Sequence[Path], out: Path, endings: Sequence[str]) -> list[str]:
    """For each file the name of its pictures: its own, with _2, _3, ... where they would replace others or a file."""
    taken, chosen = {file.resolve() for file in files}, []
    for file in files:
        for number in count(1):
            name = file.stem if number == 1 else f"{file.stem}_{number}"
            own = {(out / f"{name}{ending}.png").resolve() for ending in ("", *endings)}
            if taken.isdisjoint(own):
                break
        taken |= own
        chosen.append(name)
    return chosen


def side_by_side(images: Images, headers: Sequence[str]) -> Image.Image:
    """A picture of images; those of more than `MOST_SHOWN` rows or columns are shrunk by a whole factor."""
    by = -(-max(images.shape[2:]) // MOST_SHOWN)
    planes = np.stack([np.asarray(Image.fromarray(one).reduce(by)) for one in images.reshape(-1, *images.shape[2:])])
    height, width = planes.shape[1:]
    scale = max(1, min(grids.PAGE_WIDTH // len(images) // width, MOST_SHOWN // height))
    return grids.labelled_rows([("", planes.reshape(*images.shape[:2], height, width))], headers, scale)
