"""Enlarged and edited images of any size, by a model of one: tiles that overlap, each given what those before drew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_transformer.conditions.base import repeated
from image_transformer.conditions.low import Low
from image_transformer.conditions.source import Source
from image_transformer.geometry.order import IntArray
from image_transformer.geometry.patterns import BoolArray
from image_transformer.inference.sampling import Progress, generate
from image_transformer.inference.scoring import part_of
from image_transformer.model import ImageModel

MOST_BYTES = 2**28  # of images drawn together


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


def draw(
    model: ImageModel,
    name: str,
    told: Tensor,
    factor: int = 1,
    *,
    samples: int = 1,
    consistent: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Tensor:
    """`samples` images for each conditioning image in `told`, passed as `name=`: (n, samples, c, factor h, factor w).

    told: uint8 (n, c, h, w) of any size, of which a tile of the model's size / `factor` is told of each tile.
    options: as in `generate`; of other conditions one value for each image, or one for all.
    progress: called with (pixels drawn, pixels in all), of all tiles of all samples.
    ValueError for images of another type or number of channels, and for arguments out of range.
    """
    check_told(model, name, told, samples)
    n, channels, height, width = told.shape
    plan = tiling(model, (height, width), factor)
    groups = plan.groups()
    pixels = [n * samples * len(group.tiles) * int((~group.known).sum()) * factor**2 for group in groups]
    rows, cols = torch.arange(plan.size[0]).clamp(max=height - 1), torch.arange(plan.size[1]).clamp(max=width - 1)
    told = told.cpu()[:, :, rows][..., cols]
    names = [condition.name for condition in model.config.conditions]
    for one in {"known", "known_mask", "numbers", "guess", name} & options.keys():
        raise ValueError(f"{one}= is not for images that are drawn by tiles")
    also = {key: options.pop(key) for key in list(options) if key in names}
    also = repeated(model.given(n, also, follow=[name]), samples)
    images = torch.zeros(n, samples, channels, factor * plan.size[0], factor * plan.size[1], dtype=torch.uint8)
    done = 0
    for group, its in zip(groups, pixels, strict=True):
        windows = [plan.window(number, factor) for number in group.tiles]
        parts = torch.stack([told[plan.window(number)] for number in group.tiles])
        numbers = [sample * plan.tiles + tile for tile in group.tiles for _ in range(n) for sample in range(samples)]
        of_tiles: dict[str, Any] = {name: parts.flatten(0, 1).repeat_interleave(samples, 0)}
        of_tiles |= {key: torch.cat([value] * len(group.tiles)) for key, value in also.items()}
        drawn = generate(
            model, len(numbers), consistent=consistent, numbers=numbers,
            known=torch.stack([images[window] for window in windows]).flatten(0, 2),
            known_mask=torch.from_numpy(group.known.repeat(factor, 0).repeat(factor, 1)),
            progress=part_of(progress, done, its, sum(pixels)), **of_tiles, **options,
        )  # fmt: skip
        for window, part in zip(windows, drawn.unflatten(0, (-1, n, samples)), strict=True):
            images[window] = part
        done += its
    return images[..., : factor * height, : factor * width]


def draw_each(
    model: ImageModel,
    name: str,
    told: Sequence[NDArray[np.uint8]],
    factor: int = 1,
    *,
    samples: int = 1,
    progress: Progress | None = None,
    **how: Any,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The number of each image in `told` (c, h, w), of any sizes, with what `draw` draws for it, as they come.

    Images of one size are drawn together, as many as leave the drawn ones below `MOST_BYTES`. how: as in `draw`.
    """
    area = samples * factor**2
    by_size: dict[tuple[int, int], list[int]] = {}
    for number, image in enumerate(told):
        by_size.setdefault((image.shape[1], image.shape[2]), []).append(number)
    done, total = 0, area * sum(image[0].size for image in told)
    for numbers in by_size.values():
        most = max(1, MOST_BYTES // (area * told[numbers[0]].size))
        for first in range(0, len(numbers), most):
            part = numbers[first : first + most]
            together = torch.from_numpy(np.stack([told[number] for number in part]))
            its = area * together[:, 0].numel()
            part_done = part_of(progress, done, its, total)
            images = draw(model, name, together, factor, samples=samples, progress=part_done, **how)
            yield from zip(part, images.numpy(), strict=True)
            done += its


def tiling(model: ImageModel, size: tuple[int, int], factor: int = 1) -> Tiling:
    """The tiles of a conditioning image of `size` (rows, columns)."""
    _, height, width = model.config.shape
    return Tiling(size, (height // factor, width // factor))


def check_told(model: ImageModel, name: str, told: Tensor, samples: int) -> None:
    """ValueError unless `draw` can draw from `told`, uint8 (n, c, h, w), under this name, so many samples of each."""
    if not isinstance(told, Tensor) or told.dtype != torch.uint8:
        came = told.dtype if isinstance(told, Tensor) else type(told).__name__
        raise ValueError(f"{name} must be a torch.uint8 tensor of values 0..255, got {came}")
    channels = model.config.shape[0]
    if told.dim() != 4 or told.shape[1] != channels or not told.numel():
        raise ValueError(f"{name} must have shape (n, {channels}, h, w) for this model, got {tuple(told.shape)}")
    pictures = [one.name for one in model.config.conditions if isinstance(one, Low | Source) and one.name != name]
    if pictures:
        raise ValueError(f"this model is told {pictures[0]}, too, and cannot draw by tiles")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")


@dataclass(frozen=True)
class Group:
    """Tiles that are drawn together, by their numbers, and the low-resolution pixels of each that are known."""

    tiles: list[int]
    known: BoolArray


class Tiling:
    """The tiles, numbered row by row, that cover an image, and what each waits for; in low-resolution pixels.

    size: of the covered area, (rows, columns): at least a tile.
    """

    def __init__(self, given: tuple[int, int], tile: tuple[int, int]) -> None:
        self.tile = tile
        self.size = (max(given[0], tile[0]), max(given[1], tile[1]))
        self.tops, self.lefts = (starts(length, one) for length, one in zip(self.size, tile, strict=True))
        self.tiles = len(self.tops) * len(self.lefts)

    def window(self, number: int, factor: int = 1) -> tuple[Any, slice, slice]:
        """An index of the pixels of a tile in images (..., rows, columns), `factor` times as large."""
        (height, width), (i, j) = self.tile, divmod(number, len(self.lefts))
        top, left = int(self.tops[i]), int(self.lefts[j])
        return ..., slice(factor * top, factor * (top + height)), slice(factor * left, factor * (left + width))

    def known(self, number: int) -> BoolArray:
        """Which pixels of a tile those before it have drawn: all that the row above and the tile to its left reach."""
        i, j = divmod(number, len(self.lefts))
        known = np.zeros(self.tile, np.bool_)
        if i:
            known[: self.tops[i - 1] + self.tile[0] - self.tops[i]] = True
        if j:
            known[:, : self.lefts[j - 1] + self.tile[1] - self.lefts[j]] = True
        return known

    def groups(self) -> list[Group]:
        """All tiles, in the order in which they are drawn: each after those that draw something of it, like with like.

        Tile (i, j) waits for (i - 1, j) and (i, j - 1), and with them for those before them. It also lies partly in
        (i - 1, j + 1), but no pixel that is drawn there and not in (i - 1, j) is its own. So the tiles of equal i + j
        go together, save that `generate` wants the same places known in all images.
        """
        found: dict[tuple[int, bytes], Group] = {}
        for number in range(self.tiles):
            i, j = divmod(number, len(self.lefts))
            known = self.known(number)
            found.setdefault((i + j, known.tobytes()), Group([], known)).tiles.append(number)
        return [found[key] for key in sorted(found)]


def starts(length: int, tile: int) -> IntArray:
    """Where tiles begin along an axis, half a tile apart, rounded up, and the last one at the end, `(tiles,)`."""
    last = length - tile
    return np.append(np.arange(0, last, -(-tile // 2)), last)
