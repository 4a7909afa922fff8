"""Pixels out of image files, Arrow structs and arrays, in the channels and size that are wanted; not where they lie."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from image_transformer.data.images import DataError, first_line

DEPTH_UNKNOWN = ("AVIF", "JPEG2000")  # formats of which Pillow does not tell whether values had more than 8 bits


class Unreadable(DataError):
    """A broken image file: the only fault that `skip_bad` forgives."""


@dataclass(frozen=True)
class Request:
    """What is wanted of a source: the arguments of `load_data`. DataError for those that no source could meet."""

    source: str
    split: str = ""
    shape: tuple[int, int, int] | None = None
    size: tuple[int, int] | None = None
    skip_bad: bool = False
    whole: bool = False  # a data set, of which bad files can be left out, not files that were named one by one

    def __post_init__(self) -> None:
        if self.shape is not None and self.shape[0] not in (1, 3):
            raise DataError(f"shape {self.shape}: expected (channels, height, width) with 1 or 3 channels")
        if self.size is not None and min(self.size) < 1:
            raise DataError(f"size {self.size}: expected a positive height and width")


def write_images(items: Any, rows: NDArray[np.int64], ask: Request, file: BinaryIO) -> list[int]:
    """The rows that could be read, after writing them as a .npy of uint8 (n, c, h, w), image by image.

    `items` is a list of paths or arrays (c, h, w), a column of Arrow structs {bytes, path}, or an array (n, c, h, w).
    """
    kept: list[int] = []
    shape, first = (0, 0, 0), ""
    channels = ask.shape[0] if ask.shape else items.shape[1] if isinstance(items, np.ndarray) else 3
    for row in rows.tolist():
        name = str(items[row]) if isinstance(items[row], Path) else f"{ask.source}, image {row}"
        try:
            pixels = read_image(items[row], name, channels, ask.size)
        except Unreadable as error:
            if ask.skip_bad:
                continue
            hint = "; --skip-bad (skip_bad=True) leaves such files out" if ask.whole else ""
            raise DataError(f"{error}{hint}") from None
        if not kept:
            shape, first = pixels.shape, name
            check_shape(shape, ask)
            _write_header(file, (len(rows), *shape))
        if pixels.shape != shape:
            sizes = f"{first} is {shape[1]}x{shape[2]}, {name} is {pixels.shape[1]}x{pixels.shape[2]}"
            raise DataError(f"{ask.source}: mixed sizes, {sizes}: pass --size {shape[1]} {shape[2]}")
        file.write(pixels.tobytes())
        kept.append(row)
    if not kept:
        raise DataError(f"{ask.source}: none of {len(rows)} images is readable")
    _write_header(file, (len(kept), *shape))
    return kept


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Write or rewrite the head of a .npy, which numpy pads so that another n takes the same room."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def read_exactly(item: Any, name: str) -> NDArray[np.uint8]:
    """One image as (c, h, w), upright, with its own channels: 1 grey, 3 RGB, 2 and 4 with opacity.

    DataError where that would not be every bit of every pixel in the file.
    """
    image = _upright(item, name, exactly=True)
    if image.mode in ("L", "RGB") and "transparency" in image.info:  # one colour that is not seen
        image = image.convert("LA" if image.mode == "L" else "RGBA")
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        kind = {"P": "a palette", "1": "black and white alone"}.get(image.mode, f"mode {image.mode}")
        raise DataError(f"{name}: expected a grey or RGB image, with opacity or without; this one has {kind}")
    return np.asarray(image).reshape(image.height, image.width, -1).transpose(2, 0, 1)


def read_image(item: Any, name: str, channels: int | None, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """One image as (c, h, w): upright, on white where it is transparent, grey or RGB, resized if wanted.

    channels: 1 or 3; None for those that it has.
    """
    image = _upright(item, name)
    channels = channels or (1 if image.mode in ("1", "L", "LA") else 3)
    try:
        image = on_white(image).convert("L" if channels == 1 else "RGB")
    except ValueError as error:  # of a palette with more opacities than colours
        raise Unreadable(f"{name}: unreadable image ({first_line(error)})") from None
    if size is not None:
        image = _resize(image, size)
    return np.asarray(image).reshape(image.height, image.width, channels).transpose(2, 0, 1)


def on_white(image: Image.Image) -> Image.Image:
    """The image as it looks on white, where it is transparent."""
    if not image.has_transparency_data:
        return image
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)


def _upright(item: Any, name: str, exactly: bool = False) -> Image.Image:
    """The image, turned as its file says; `exactly`: refused if anything of it is lost so."""
    try:
        with _open(item) as opened:
            tile = repr(getattr(opened, "tile", ""))  # says what loading would hide
            largest = _largest_value(opened)
            deep = opened.mode[0] in "IF" or ";16" in tile or largest > 255
            lost = _lost(opened, largest) if exactly else ""
            image = ImageOps.exif_transpose(opened)
    except Exception as error:  # Pillow meets broken files with OSError, SyntaxError, ValueError, struct.error, ...
        why = first_line(error).split(" <")[0]  # of a stream
        raise Unreadable(f"{name}: unreadable image ({why})") from None
    if deep:
        raise DataError(f"{name}: expected 8 bits a channel, got 16-bit or floating-point values")
    if lost:
        raise DataError(f"{name}: {lost}")
    return image


def _lost(image: Image.Image, largest: int) -> str:
    """What would be lost of a file if only the pixels of its first image were kept, in 8 bits; empty for nothing."""
    several = max(getattr(image, "n_frames", 1), len(image.info.get("sizes", ())))
    if several > 1 and image.format != "MPO":  # of a camera: the others are previews
        return "it holds several images, expected one"
    if image.format in DEPTH_UNKNOWN:
        return f"{image.format} may hold more than 8 bits a channel: convert it to PNG first"
    return "" if largest == 255 else f"its largest value is {largest}, expected 255"


def _largest_value(image: Image.Image) -> int:
    """What a PPM file says that white is, 255 in others: Pillow scales the values by it."""
    tiles = getattr(image, "tile", []) if image.format == "PPM" else []
    scaled = [tile for tile in tiles if tile.codec_name in ("ppm", "ppm_plain")]
    return next((tile.args[1] for tile in scaled if isinstance(tile.args, tuple)), 255)


def _open(item: Any) -> Image.Image:
    """A path, bytes, an Arrow struct {bytes, path} or an array (c, h, w) as a Pillow image, perhaps not loaded yet."""
    if isinstance(item, np.ndarray):
        return Image.fromarray(item[0] if len(item) == 1 else item.transpose(1, 2, 0))
    if isinstance(item, Path):
        return Image.open(item)
    if isinstance(item, bytes):
        return Image.open(io.BytesIO(item))
    struct = item.as_py()
    return Image.open(struct["path"] if struct["bytes"] is None else io.BytesIO(struct["bytes"]))


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The largest central box of the wanted aspect, scaled to (h, w)."""
    h, w = size
    scale = min(image.height / h, image.width / w)
    box_h, box_w = max(1, round(h * scale)), max(1, round(w * scale))
    top, left = (image.height - box_h) // 2, (image.width - box_w) // 2
    image = image.crop((left, top, left + box_w, top + box_h))
    if box_h % h == 0 and box_w % w == 0:
        return image.reduce((box_w // w, box_h // h))
    return image.resize((w, h), Image.Resampling.LANCZOS)


def check_shape(came: Sequence[int], ask: Request) -> None:
    """Raise DataError unless images (c, h, w) have the height and width that the model wants."""
    if ask.shape is None or tuple(came[1:]) == tuple(ask.shape[1:]):
        return
    (h, w), (want_h, want_w) = came[1:], ask.shape[1:]
    how = "to enlarge them" if h < want_h or w < want_w else "to shrink them"
    wrong = f"images are {h}x{w}, the model wants {want_h}x{want_w}"
    raise DataError(f"{ask.source}: {wrong}: pass --size {want_h} {want_w} {how}")
