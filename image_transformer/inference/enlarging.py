"""Enlarging images of any size with a model of one size, by tiles."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from image_transformer.conditions.low import Low
from image_transformer.inference.sampling import Progress
from image_transformer.inference.tiled import draw
from image_transformer.model import ImageModel


def enlarge(
    model: ImageModel,
    low: Tensor,
    *,
    samples: int = 1,
    consistent: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Tensor:
    """`samples` enlargements of each low-resolution image: uint8 (n, c, h, w) of any size -> (n, samples, c, f h, f w).

    An image is drawn in tiles of the model's size, t x u low-resolution pixels, that begin half a tile apart; the last
    ones lie at the edge. An image larger than a tile takes 1 + ceil((h - t) / ceil(t / 2)) rows of tiles, and columns
    likewise: some 4 h w / (t u) tiles if it is large. A smaller one is continued by repeating its edge pixels, and what
    was drawn there is cut off.

    Tiles go row by row. What earlier ones have drawn of a tile, in the midst of an image its upper and its left half,
    is `known`: it stays, and the rest, a quarter, is drawn conditioned on what of it has an earlier front (see
    `generate`), and on the tile's low-resolution pixels. It is not conditioned on anything outside its tile. A tile
    costs one pass over it and the steps of what is drawn. Tiles that do not wait for each other are drawn together.

    The noise of a tile is a function of (seed, sample, place of the tile). So sample i of an image is the same whatever
    the number of samples, and whichever images are enlarged with it: images of one call share their noise. An image of
    a tile's size becomes what `generate` draws.
    options: as in `generate`, but for what says which pixels are known, `numbers` and `guess`; of conditions other than
        `low` one value for each image, or one for all.
    progress: called with (pixels drawn, pixels in all), of all tiles of all samples.
    Raises ValueError for a model that is not for super-resolution, and for arguments out of range or of a wrong shape.

    >>> it.enlarge(superres, photo, samples=3).shape         # photo: uint8 (1, 3, 5, 7)
    torch.Size([1, 3, 3, 10, 14])
    """
    return draw(
        model, "low", low, model_factor(model), samples=samples, consistent=consistent, progress=progress, **options
    )


def enlarges(model: ImageModel) -> bool:
    """Whether a model is for super-resolution."""
    return model.config.condition(Low) is not None


def model_factor(model: ImageModel) -> int:
    """The factor by which a model enlarges. ValueError if there is none."""
    low: Low | None = model.config.condition(Low)
    if low is None:
        raise ValueError(
            "this model is not for super-resolution: cifar10-superres is, and what train superres-cifar10 makes"
        )
    return low.factor
