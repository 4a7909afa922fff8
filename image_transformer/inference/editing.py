"""Editing images by instruction: those of any size by tiles, where the model's edits go by what lies around a pixel."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from image_transformer.conditions.source import Source
from image_transformer.inference.sampling import Progress
from image_transformer.inference.tiled import check_told, draw
from image_transformer.model import ImageModel


def edit(
    model: ImageModel, source: Tensor, *, samples: int = 1, progress: Progress | None = None, **options: Any
) -> Tensor:
    """`samples` edits of each image of `source`: uint8 (n, c, h, w) -> (n, samples, c, h, w).

    By a model with `Source("near")`, images of any size: in tiles of the model's size that begin half a tile apart, as
    in `enlarge`. By one with `Source("all")`, images of the model's size alone.
    options: as in `generate`, but for what says which pixels are known, `numbers` and `guess`; of other conditions one
        value for each image, or one for all: text="make it darker".
    progress: called with (pixels drawn, pixels in all), of all tiles of all samples.
    Raises ValueError for a model that is not for editing, for images of another size than it can edit, and for
    arguments out of range or of a wrong shape.

    >>> it.edit(editor, photo, samples=3, text="make it darker").shape       # photo: uint8 (1, 3, 5, 7)
    torch.Size([1, 3, 3, 5, 7])
    """
    check_edits(model)
    check_told(model, "source", source, samples)
    check_size(model, tuple(source.shape[-2:]))
    return draw(model, "source", source, samples=samples, progress=progress, **options)


def check_edits(model: ImageModel) -> None:
    """ValueError unless a model is for editing."""
    if model.config.condition(Source) is None:
        raise ValueError("this model is not for editing; train one with: image-transformer train photo-edit")


def check_size(model: ImageModel, size: tuple[int, ...]) -> None:
    """ValueError unless a model for editing can edit images of this size (rows, columns)."""
    _, height, width = model.config.shape
    if model.config.condition(Source).sight == "all" and size != (height, width):
        rows, columns = size
        raise ValueError(
            f"this model edits {height}x{width} images only, got {rows}x{columns}: resize it, as --size does"
        )
