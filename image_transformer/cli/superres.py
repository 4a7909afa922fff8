"""`image-transformer superres`: image files of any size enlarged, and the pictures of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image_transformer.cli import UsageError, pictures
from image_transformer.cli.flags import at_least, file_arguments, model_argument, parse, told, with_conditions
from image_transformer.config.sampling import Sampling
from image_transformer.geometry.boxes import nearest


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
    from image_transformer.inference.enlarging import model_factor
    from image_transformer.inference.tiled import draw_each, tiling
    from image_transformer.measures.quality import bicubic
    from image_transformer.show.progress import bar

    model = load(path)
    factor = model_factor(model, chosen.factor)
    given = told(chosen, model.config, needed=True)
    if chosen.out.exists() and not chosen.out.is_dir():
        raise UsageError(f"--out {chosen.out} is a file, expected a folder")
    lows = [load_file(file, model.config.shape[0], size=chosen.size) for file in files]
    tiles = sum(tiling(model, (low.shape[1], low.shape[2]), factor).tiles for low in lows)
    pictures.announce(len(lows), tiles, chosen.samples)
    endings = ["-nearest", "-bicubic", *pictures.numbered(chosen.samples)]
    headers = ["nearest", "bicubic", *["samples"] * chosen.samples]
    names, done = pictures.names(files, chosen.out, endings), {}
    with bar("steps") as progress:
        for number, images in draw_each(
            model, "low", lows, factor, samples=chosen.samples, consistent=chosen.consistent, progress=progress,
            **chosen.options(), **given,
        ):  # fmt: skip
            low = lows[number][None]
            every = np.concatenate([nearest(low, factor), bicubic(low, factor), images])
            done[number] = pictures.write(chosen.out, names[number], every, headers, endings)
    print(chosen.out, *(done[number] for number in sorted(done)), sep="\n")
