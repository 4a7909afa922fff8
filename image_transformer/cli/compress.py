"""`image-transformer compress`: image files made smaller without loss."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from image_transformer.cli import UsageError
from image_transformer.cli.flags import arguments
from image_transformer.files import write_atomically

if TYPE_CHECKING:
    from image_transformer.codec.archive import Coder

ENDING = ".itc"
STREAM = Path("-")


@dataclass(frozen=True)
class Compress:
    """Compress image files without loss, each to NAME.itc beside it, or all to one archive.

    8 bits a channel, grey or RGB, with opacity or without, of any size. Pixels are kept, upright as the camera meant
    them; what else a file holds, such as the time of a photograph, is not. `-` reads an image from standard input and
    writes to standard output. Of a JPEG the pixels are kept, too, which takes several times the room of the JPEG.
    """

    model: str | None = None
    """A coding model that comes with the package (small, or fast), or the file of one; small if not given."""
    archive: Path | None = None
    """Write all images into this one file. Those of one size are coded together, which is many times as fast."""
    to: Path | None = None
    """Folder for the .itc files, instead of that of each image."""
    float: bool = False
    """--model is an ordinary model, for images of its own shape: this very machine alone can read what it writes."""
    force: bool = False
    """Replace files that are there already."""
    skip_existing: bool = False
    """Leave files that are there already, and write the others: to go on where an earlier run has stopped."""


def run(args: list[str]) -> None:
    files, chosen = arguments(Compress, "compress IMAGE...", args)
    if chosen.archive is not None and chosen.to is not None:
        raise UsageError("--archive names one file, --to a folder of many: choose one of them")
    if chosen.float and chosen.model is None:
        raise UsageError("--float needs --model: an ordinary model, such as a run folder")
    if STREAM in files and (len(files) > 1 or chosen.to is not None):
        raise UsageError("- stands alone: one image from standard input")
    target = STREAM if chosen.archive is None and files == [STREAM] else chosen.archive
    targets = [target] if target is not None else [(chosen.to or f.parent) / (f.stem + ENDING) for f in files]
    wanted = to_write(targets, chosen.force, chosen.skip_existing)
    if not wanted:
        return

    from image_transformer.codec.models import DEFAULT, load_coding_model
    from image_transformer.data.decode import read_exactly

    coder: Coder
    if chosen.float:
        from image_transformer.checkpoint import load

        coder = load(str(chosen.model))
    else:
        coder = load_coding_model(chosen.model or DEFAULT)

    def read(file: Path) -> NDArray[np.uint8]:
        if file == STREAM:
            return read_exactly(sys.stdin.buffer.read(), "standard input")
        if file.is_dir():
            raise UsageError(f"{file} is a folder: name its files, as in {file}/*.png")
        return read_exactly(file, str(file))

    if target is None:
        for file, path in zip(files, targets, strict=True):
            if path in wanted:
                _write([read(file)], [], coder, path, str(file))
        return
    images = [read(file) for file in files]
    order = sorted(range(len(files)), key=lambda i: images[i].shape)  # as stable as it must be: sizes side by side
    names = [] if files == [STREAM] else _names([files[i] for i in order])
    what = str(files[0]) if len(files) == 1 else f"{len(files):,} images"
    _write([images[i] for i in order], names, coder, target, "standard input" if files == [STREAM] else what)


def to_write(paths: Sequence[Path], force: bool, skip: bool) -> set[Path]:
    """Those of the files that are to be written: all but, if they may be skipped, those that are there.

    UsageError if writing them would replace others, or one of them another.
    """
    if force and skip:
        raise UsageError("--force replaces files, --skip-existing leaves them: choose one of them")
    wanted: set[Path] = set()
    for path in paths:
        if path in wanted:
            raise UsageError(f"two of the images would be written as {path}: choose a folder for each, or rename one")
        wanted.add(path)
    there = {path for path in wanted if path != STREAM and path.exists()}
    if folder := next(filter(Path.is_dir, there), None):
        raise UsageError(f"{folder} is a folder, expected a file to write")
    if there and not force and not skip:
        raise UsageError(f"{min(there)} is there already: --force replaces it, --skip-existing leaves it")
    if there and skip:
        print(f"{len(there):,} of {len(wanted):,} files are there already", file=sys.stderr)
    return wanted - there if skip else wanted


def write(path: Path, data: bytes) -> None:
    """Write a file, or to standard output."""
    if path == STREAM:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_atomically(path, data)


def _write(images: list[NDArray[np.uint8]], names: list[str], coder: Coder, path: Path, what: str) -> None:
    """Compress images into a file, and say what came of it; on stderr if the file goes to stdout."""
    from image_transformer.codec.archive import compress
    from image_transformer.show.grids import picture, png_bytes
    from image_transformer.show.progress import bar

    began = time.perf_counter()
    with bar("pixels") as progress:
        data = compress(images, coder, names=names, progress=progress)
    seconds = time.perf_counter() - began
    values, pixels = sum(image.size for image in images), sum(image[0].size for image in images)
    write(path, data)
    share = len(data) / sum(len(png_bytes(picture(image))) for image in images)
    print(
        f"{what} -> {path}: {len(data):,} bytes, {8 * len(data) / values:.3f} bits/dim, {share:.0%} of PNG, "
        f"{pixels / seconds:,.0f} pixels/s",
        file=sys.stderr if path == STREAM else sys.stdout,
        flush=True,
    )


def _names(files: Sequence[Path]) -> list[str]:
    """The files' names without their endings, with _2, _3, ... where one like it is there already."""
    from image_transformer.codec.format import alike, file_name

    taken: dict[str, str] = {}
    for file in files:
        names = (file_name(file.stem, f"_{i}" if i > 1 else "") for i in range(1, len(files) + 1))
        name = next(name for name in names if alike(name) not in taken)
        taken[alike(name)] = name
    return list(taken.values())
