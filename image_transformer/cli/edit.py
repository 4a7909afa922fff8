"""`image-transformer edit`: image files edited by instruction, and the pictures of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from image_transformer.cli import UsageError, pictures
from image_transformer.cli.flags import at_least, file_arguments, model_argument, parse, told, with_conditions
from image_transformer.config.sampling import Sampling


@dataclass(frozen=True)
class Edit(Sampling):
    """Edit image files by an instruction, such as --text "make it darker", each in several ways.

    For each NAME.jpg the folder gets NAME-1.png, NAME-2.png, ..., and NAME.png with what was given and all of them side
    by side; what is there already is replaced, except for the given files.
    """

    samples: int = 4
    """Edits of each image."""
    size: tuple[int, int] | None = None
    """Crop the image files centrally to this aspect, then resize them to this HEIGHT WIDTH, first."""
    out: Path = Path("edited")
    """Folder for the pictures."""


def run(args: list[str]) -> None:
    path, rest = model_argument("edit", args)
    files, rest = file_arguments(rest)
    chosen = parse(with_conditions(Edit), "edit MODEL IMAGE...", rest)
    if not files:
        raise UsageError("edit needs images: image-transformer edit MODEL IMAGE... --text TEXT [flags]")
    at_least(1, samples=chosen.samples)

    from image_transformer.checkpoint import load
    from image_transformer.inference.editing import check_edits, check_size

    model = load(path)
    check_edits(model)
    given = told(chosen, model.config, needed=True)
    sources = pictures.load_files(files, model, chosen)
    for file, source in zip(files, sources, strict=True):
        try:
            check_size(model, source.shape[1:])
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None

    def source_itself(source: NDArray[np.uint8]) -> list[pictures.Way]:
        return [pictures.Way("given", source)]

    pictures.draw_files(model, "source", files, sources, chosen, source_itself, "edited", **given)
