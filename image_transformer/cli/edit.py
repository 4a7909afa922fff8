"""`image-transformer edit`: image files edited by instruction, and the pictures of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from image_transformer.cli.flags import Sized, arguments, at_least, check_folder, told, with_conditions
from image_transformer.cli.pictures import draw_files
from image_transformer.config.sampling import Sampling


@dataclass(frozen=True)
class Edit(Sized, Sampling):
    """Edit image files by an instruction, such as --text "make it darker", each in several ways.

    For each NAME.jpg the folder gets NAME-1.png, NAME-2.png, ..., and NAME.png with what was given and all of them side
    by side; what is there already is replaced, except for the given files.
    """

    samples: int = 4
    """Edits of each image."""
    out: Path = Path("edited")
    """Folder for the pictures."""


def run(args: list[str]) -> None:
    (path, *files), chosen = arguments(with_conditions(Edit), "edit MODEL IMAGE...", args)
    at_least(1, samples=chosen.samples)
    check_folder(chosen.out)

    from image_transformer.checkpoint import load
    from image_transformer.data.loading import load_file
    from image_transformer.inference.tiled import check_edits, check_size

    model = load(path)
    check_edits(model)
    given = told(chosen, model.config, needed=True)
    sources = [load_file(file, model.config.shape[0], size=chosen.size) for file in files]
    for file, source in zip(files, sources, strict=True):
        try:
            check_size(model, source.shape[1:])
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None

    draw_files(model, "source", files, sources, chosen, "edited", **given)
