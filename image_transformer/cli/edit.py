"""`image-transformer edit`: image files edited by instruction, and the pictures of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
    """Resize the image files to this height and width first."""
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
    from image_transformer.data.loading import load_file
    from image_transformer.inference.editing import check_edits, check_size
    from image_transformer.inference.tiled import draw_each, tiling
    from image_transformer.show.progress import bar

    model = load(path)
    check_edits(model)
    given = told(chosen, model.config, needed=True)
    if chosen.out.exists() and not chosen.out.is_dir():
        raise UsageError(f"--out {chosen.out} is a file, expected a folder")
    sources = [load_file(file, model.config.shape[0], size=chosen.size) for file in files]
    for file, source in zip(files, sources, strict=True):
        try:
            check_size(model, source.shape[1:])
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    tiles = sum(tiling(model, (source.shape[1], source.shape[2])).tiles for source in sources)
    pictures.announce(len(sources), tiles, chosen.samples)
    endings = pictures.numbered(chosen.samples)
    names, done = pictures.names(files, chosen.out, endings), {}
    with bar("steps") as progress:
        for number, images in draw_each(
            model, "source", sources, samples=chosen.samples, progress=progress, **chosen.options(), **given
        ):
            every = np.concatenate([sources[number][None], images])
            headers = ["given", *["edited"] * chosen.samples]
            done[number] = pictures.write(chosen.out, names[number], every, headers, [None, *endings])
    print(chosen.out, *(done[number] for number in sorted(done)), sep="\n")
