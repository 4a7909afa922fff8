"""`image-transformer decompress`: the images of compressed files, as PNG."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from image_transformer.cli import UsageError
from image_transformer.cli.compress import STREAM, to_write, write
from image_transformer.cli.flags import arguments
from image_transformer.codec.format import (
    LIMIT,
    DecodeError,
    Header,
    alike,
    check_end,
    check_limit,
    file_name,
    read_header,
)
from image_transformer.words import did_you_mean


@dataclass(frozen=True)
class Decompress:
    """Write the images of compressed files as PNG: NAME.png beside NAME.itc, those of an archive by their own names.

    `-` reads a file from standard input, and writes its only image to standard output.
    """

    to: Path | None = None
    """Folder for the images, instead of that of each file."""
    only: tuple[str, ...] = ()
    """Names or numbers, from 1, of some images of an archive."""
    model: str | None = None
    """What the file was made with, if that does not come with the package: a coding model's file, or a model's name or
    folder for what was made with --float."""
    limit: int = LIMIT
    """Pixels that a file may hold; an image, and a step that decodes some pixels at once, count as 64 at least."""
    force: bool = False
    """Replace files that are there already."""
    skip_existing: bool = False
    """Leave files that are there already, and write the others: to go on where an earlier run has stopped."""


def run(args: list[str]) -> None:
    files, chosen = arguments(Decompress, "decompress FILE...", args)
    if STREAM in files and len(files) > 1:
        raise UsageError("- stands alone: one file from standard input")

    from image_transformer.checkpoint import load
    from image_transformer.codec.archive import each_image
    from image_transformer.show.grids import picture, png_bytes
    from image_transformer.show.progress import bar

    piped = read(STREAM) if files == [STREAM] else b""
    targets = []
    for file in files:
        with named(file):
            header = read_header(data := piped or read(file))
            check_end(data, header)
            if not chosen.only:
                check_limit(header.groups, chosen.limit)  # before there is a name for each image
            numbers = _chosen(header, chosen.only)
            if file == STREAM and chosen.to is None and len(numbers) > 1:
                raise UsageError(f"standard input holds {header.images} images: --to names a folder for them")
            paths = [STREAM] if file == STREAM and chosen.to is None else _paths(header, numbers, file, chosen.to)
            targets.append(list(zip(numbers, paths, strict=True)))
    wanted = to_write([path for target in targets for _, path in target], chosen.force, chosen.skip_existing)
    for file, target in zip(files, targets, strict=True):
        left = {number: path for number, path in target if path in wanted}
        if not left:
            continue
        with named(file), bar("pixels") as progress:
            header = read_header(data := piped or read(file))
            model = load(chosen.model) if chosen.model is not None and header.floats else chosen.model
            for number, image in each_image(data, header, list(left), model, limit=chosen.limit, progress=progress):
                write(left[number], png_bytes(picture(image)))
        names = list(left.values())
        if names != [STREAM]:
            print(*names if len(names) < 5 else [f"{len(names):,} images in {names[0].parent}"], sep="\n", flush=True)


@contextmanager
def named(file: Path) -> Iterator[None]:
    """An error of a file names it."""
    try:
        yield
    except DecodeError as error:
        raise DecodeError(f"{'standard input' if file == STREAM else file}: {error}") from None


def read(file: Path) -> bytes:
    return sys.stdin.buffer.read() if file == STREAM else file.read_bytes()


def _chosen(header: Header, only: Sequence[str]) -> list[int]:
    """The numbers, from 0, of the images that are meant."""
    if not only:
        return list(range(header.images))
    named = {name: i for i, name in enumerate(header.names)}
    found = []
    for word in only:
        number = named.get(word, int(word) - 1 if word.isdecimal() else -1)
        if not 0 <= number < header.images:
            known = did_you_mean(word, header.names) if header.names else f"numbers are 1 to {header.images}"
            raise UsageError(f"--only {word}: no such image; {known}")
        found.append(number)
    return list(dict.fromkeys(found))


def _paths(header: Header, numbers: Sequence[int], file: Path, to: Path | None) -> list[Path]:
    stem = "image" if file == STREAM else file.stem
    one = header.images == 1 and not header.names
    own = {i: file_name(header.names[i]) for i in numbers} if header.names else {}  # those of older files may not do
    names = own or {i: stem if one else f"{stem}-{i + 1}" for i in numbers}
    seen: dict[str, int] = {}
    for i in numbers:
        if (other := seen.setdefault(alike(names[i]), i)) != i:
            both = f"{names[other]}.png and {names[i]}.png are one file on some systems"
            raise UsageError(f"{both}: --only takes one of them by its number, {other + 1} or {i + 1}")
    return [(to or file.parent) / f"{names[i]}.png" for i in numbers]
