"""`image-transformer superres`: image files of any size enlarged, and the pictures of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from image_transformer.cli.flags import Sized, arguments, at_least, check_folder, told, with_conditions
from image_transformer.cli.pictures import draw_files
from image_transformer.config.sampling import Sampling
from image_transformer.geometry.boxes import nearest


@dataclass(frozen=True)
class Superres(Sized, Sampling):
    """Enlarge image files of any size, each in several ways, by a model for super-resolution.

    A file's pixels are the low-resolution image: to try it with a photograph, shrink that with --size. For each
    NAME.jpg the folder gets NAME-1.png, NAME-2.png, ..., the plain enlargements NAME-nearest.png and NAME-bicubic.png,
    and NAME.png with all of them side by side; what is there already is replaced, except for the given files.
    """

    samples: int = 4
    """Enlargements of each image."""
    consistent: bool = False
    """Draw only images whose box means equal the given image exactly."""
    out: Path = Path("enlarged")
    """Folder for the pictures."""


def run(args: list[str]) -> None:
    (path, *files), chosen = arguments(with_conditions(Superres), "superres MODEL IMAGE...", args)
    at_least(1, samples=chosen.samples)
    check_folder(chosen.out)

    from image_transformer.checkpoint import load
    from image_transformer.data.loading import load_file
    from image_transformer.inference.tiled import model_factor
    from image_transformer.measures.quality import bicubic

    model = load(path)
    factor = model_factor(model)
    given = told(chosen, model.config, needed=True)
    lows = [load_file(file, model.config.shape[0], size=chosen.size) for file in files]

    plain = {"nearest": nearest, "bicubic": bicubic}
    draw_files(model, "low", files, lows, chosen, "samples", factor, plain, consistent=chosen.consistent, **given)
