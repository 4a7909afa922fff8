"""`image-transformer complete`: images of which a part is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from image_transformer.cli.flags import (
    Fitted,
    arguments,
    at_least,
    check_file,
    refuse,
    refuse_others,
    told,
    with_conditions,
)
from image_transformer.config.sampling import Sampling


@dataclass(frozen=True)
class Complete(Fitted, Sampling):
    """Keep a part of each image, draw the rest several times, and write one picture: given, completions, original.

    Prints how the images were turned before drawing, how much of what is given a drawn pixel was conditioned on, and
    how much the completions differ: their root mean variance. A model for super-resolution is also given the low
    resolution of the whole original, of the part to be drawn too.
    """

    samples: int = 6
    """Completions of each image."""
    keep: float = 0.5
    """Fraction of the rows, or columns, that is given."""
    keep_side: Literal["top", "bottom", "left", "right"] = "top"
    """Side on which they lie."""
    mask: Path | None = None
    """An image of the model's size that is white where pixels are given, instead of --keep and --keep-side."""
    orientation: str = "auto"
    """How to turn the images before drawing, such as upside-down, if the model was trained for it (--data.flips,
    --data.orientations); auto: so that most of what is given is conditioned on."""
    data: str | None = None
    """Without image files: take test images of this data, a fixed draw; what the model was trained on if not given."""
    count: int | None = None
    """Without image files: how many images to take, 6 if not given."""
    out: Path = Path("completions.png")
    """Picture to write."""


def run(args: list[str]) -> None:
    (path, *files), chosen = arguments(with_conditions(Complete), "complete MODEL [IMAGE...]", args)
    at_least(1, samples=chosen.samples, count=chosen.count)
    check_file(chosen.out, ending=".png")
    if files:
        refuse("images of a data set, not for files", data=chosen.data, count=chosen.count, skip_bad=chosen.skip_bad)

    from image_transformer.cli.trained import load_trained
    from image_transformer.data.loading import load_files
    from image_transformer.geometry.orientation import named
    from image_transformer.inference.completion import complete, known_side, read_mask
    from image_transformer.show import grids
    from image_transformer.show.progress import bar

    trained = load_trained(path)
    model, shape = trained.model, trained.model.config.shape
    if files:
        refuse_others(path, model.config, following=True)
    given = told(chosen, model.config, needed=bool(files))
    if files:
        originals = load_files(files, shape=shape, size=chosen.size)
    else:
        data = trained.tested(chosen).some(chosen.count or 6)
        originals, given = data.images, model.of(data) | given
    known = read_mask(chosen.mask, shape) if chosen.mask else known_side(chosen.keep, shape, chosen.keep_side)
    orientations = trained.config.data.trained_orientations
    if chosen.orientation != "auto":
        orientations = (named(chosen.orientation, orientations),)
    with bar("steps") as progress:
        done = complete(
            model, originals, known, samples=chosen.samples, orientations=orientations, progress=progress,
            **chosen.options(), **given,
        )  # fmt: skip
    grids.save_png(done.picture(), chosen.out)
    print(chosen.out, done.summary(), sep="\n")
    for condition in model.config.conditions:
        if condition.follows:
            print(f"this model was also given {condition.noun} of the whole original, of the part to be drawn too")
