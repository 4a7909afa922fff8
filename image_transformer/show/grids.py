"""Pictures made of images: grids, rows with labels, known values, and the PNG files that keep them.

Images come in as uint8 arrays (n, c, h, w) with 1 or 3 channels. Nothing here knows models, runs or charts.
"""

import io
import os
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from image_transformer.data.images import Images, check_arrays
from image_transformer.files import write_atomically

PAGE_WIDTH = 800  # px, what a README shows without shrinking
BACKGROUND, INK = (242, 242, 242), (64, 64, 64)
LINE = 22  # px, height of a line of captions
FONT_SIZE = 15  # px


def grid(
    images: Images,
    columns: int,
    scale: int | None = None,
    gap: int = 4,
    labels: Sequence[str] | None = None,
) -> Image.Image:
    """The images side by side, row by row, each with its label below it.

    Every pixel becomes `scale` x `scale` equal ones; by default the picture is about 800 px wide.
    """
    check_arrays(images)
    n, _, h, w = images.shape
    if labels and len(labels) != n:
        raise ValueError(f"expected a label for each of {n} images, got {len(labels)}")
    columns = min(columns, n)
    scale = scale or max(1, round(((PAGE_WIDTH - gap) / columns - gap) / w))
    cell_w, cell_h = w * scale + gap, h * scale + gap + (LINE if labels else 0)
    canvas = Image.new("RGB", (gap + columns * cell_w, gap + -(-n // columns) * cell_h), BACKGROUND)
    for i, image in enumerate(images):
        left, top = gap + i % columns * cell_w, gap + i // columns * cell_h
        canvas.paste(picture(image).resize((w * scale, h * scale), Image.Resampling.NEAREST), (left, top))
        if labels:
            _write(canvas, labels[i], left, top + h * scale, w * scale)
    return canvas


def labelled_rows(
    rows: Sequence[tuple[str, Images]],
    headers: Sequence[str] = (),
    scale: int | None = None,
    gap: int = 4,
) -> Image.Image:
    """One row of images for each (label, images), labels at the left, one header above each column.

    Equal neighbouring headers are written once, across their columns: ("given", "samples", "samples").
    """
    counts = [len(images) for _, images in rows]
    if len(set(counts)) != 1 or len(headers) not in (0, counts[0]):
        raise ValueError(f"expected rows of equal length, got {counts}, and as many headers, got {len(headers)}")
    columns = counts[0]
    body = grid(np.concatenate([images for _, images in rows]), columns, scale, gap)
    longest = max(_font(FONT_SIZE).getlength(label) for label, _ in rows)
    gutter = round(longest) + 2 * gap if longest else 0
    top = LINE if headers else 0
    canvas = Image.new("RGB", (gutter + body.width, top + body.height), BACKGROUND)
    canvas.paste(body, (gutter, top))
    cell_w, cell_h = (body.width - gap) // columns, (body.height - gap) // len(rows)
    left = gutter + gap
    for header, group in groupby(headers):
        width = sum(cell_w for _ in group) - gap
        _write(canvas, header, left, 0, width)
        left += width + gap
    for i, (label, _) in enumerate(rows):
        _write(canvas, label, gap, top + i * cell_h + (cell_h + gap - LINE) // 2, gutter - 2 * gap)
    return canvas


def masked(images: Images, known: NDArray[np.bool_]) -> Images:
    """The images with a pale checkerboard where `known` (broadcast to their shape) is False."""
    row, col = np.indices(images.shape[2:])
    board = np.where((row // 2 + col // 2) % 2, 226, 206).astype(np.uint8)
    return np.where(known, images, board)


def picture(image: Images) -> Image.Image:
    """One image (c, h, w), pixel by pixel."""
    return Image.fromarray(np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)))


def png_bytes(image: Image.Image) -> bytes:
    """The picture as the content of an optimised PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()


def save_png(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Writes the picture as an optimised PNG file, atomically."""
    write_atomically(path, png_bytes(image))


def save_moving(frames: NDArray[np.uint8], path: str | os.PathLike[str], scale: int = 1) -> None:
    """Writes frames (t, n, c, h, w), n images in rows of eight, as a GIF or WebP, by the file's name; atomically.

    Ten frames a second, over and over. A WebP keeps every level, a GIF 256 colours.
    """
    pictures = [grid(images, min(8, len(images)), scale, gap=2) for images in frames]
    file, kind = io.BytesIO(), str(path).rsplit(".", 1)[-1].upper()
    options = {"lossless": True} if kind == "WEBP" else {}
    pictures[0].save(file, format=kind, save_all=True, append_images=pictures[1:], duration=100, loop=0, **options)
    write_atomically(path, file.getvalue())


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _write(canvas: Image.Image, text: str, left: int, top: int, width: int) -> None:
    """Writes one line centred in (width, LINE) px at (left, top), smaller where it would not fit."""
    if text:
        size = max(1, int(FONT_SIZE * min(1, width / _font(FONT_SIZE).getlength(text))))
        centre = (left + width / 2, top + LINE / 2)
        ImageDraw.Draw(canvas).text(centre, text, INK, _font(size), anchor="mm")
