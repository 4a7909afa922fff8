"""Enlarging images of any size with a model of one size: tiles that overlap, each given what those before it drew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from image_transformer.geometry import boxes
from image_transformer.geometry.order import IntArray
from image_transformer.geometry.patterns import BoolArray
from image_transformer.inference.sampling import Progress, generate, schedule_of
from image_transformer.measures import quality as measures
from image_transformer.model import ImageTransformer
from image_transformer.show import grids as pictures

MOST_BYTES = 2**28  # of images drawn together
MOST_SHOWN = 512  # px, of an image in a picture of several


def enlarge(
    model: ImageTransformer,
    low: Tensor,
    *,
    samples: int = 1,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    label: int | str | None = None,
    consistent: bool = False,
    progress: Progress | None = None,
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
    label, consistent and the others: as in `generate`, label one class for all.
    progress: called with (steps done, steps in all), over all tiles of all samples.
    Raises ValueError for a model that is not for super-resolution, and for arguments out of range or of a wrong shape.
    """
    _check(model, low, samples)
    factor, (n, channels, height, width) = model_factor(model), low.shape
    plan = tiling(model, (height, width))
    groups = plan.groups()
    steps = _steps(model, groups, consistent) if progress else [0] * len(groups)
    rows, cols = torch.arange(plan.size[0]).clamp(max=height - 1), torch.arange(plan.size[1]).clamp(max=width - 1)
    low = low.cpu()[:, :, rows][..., cols]
    images = torch.zeros(n, samples, channels, factor * plan.size[0], factor * plan.size[1], dtype=torch.uint8)
    each, done = n * samples, 0  # a tile is drawn for each sample of each image
    total = each * sum(len(group.tiles) * most for group, most in zip(groups, steps, strict=True))
    for group, most in zip(groups, steps, strict=True):
        windows = [plan.window(number, factor) for number in group.tiles]
        lows = torch.stack([low[plan.window(number)] for number in group.tiles])
        numbers = [sample * plan.tiles + tile for tile in group.tiles for _ in range(n) for sample in range(samples)]
        drawn = generate(
            model, len(numbers), seed=seed, temperature=temperature, top_k=top_k, top_p=top_p, label=label,
            low=lows.flatten(0, 1).repeat_interleave(samples, 0), consistent=consistent,
            known=torch.stack([images[window] for window in windows]).flatten(0, 2),
            known_mask=torch.from_numpy(group.known.repeat(factor, 0).repeat(factor, 1)), numbers=numbers,
            progress=_after(progress, done, total),
        )  # fmt: skip
        for window, part in zip(windows, drawn.unflatten(0, (-1, n, samples)), strict=True):
            images[window] = part
        done += most * len(numbers)
    return images[..., : factor * height, : factor * width]


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


def model_factor(model: ImageTransformer, wanted: int | None = None) -> int:
    """The factor by which a model enlarges. ValueError if there is none, or if another one is wanted."""
    factor = model.config.factor
    if factor is None:
        how = "such a one is trained by: image-transformer train superres-cifar10"
        raise ValueError(f"this model is not for super-resolution; {how}")
    if wanted not in (None, factor):
        raise ValueError(f"this model enlarges by a factor of {factor}, not of {wanted}")
    return factor


def tiling(model: ImageTransformer, size: tuple[int, int]) -> Tiling:
    """The tiles of a low-resolution image of `size` (rows, columns)."""
    factor = model_factor(model)
    _, height, width = model.config.shape
    return Tiling(size, (height // factor, width // factor))


def _check(model: ImageTransformer, low: Tensor, samples: int) -> None:
    model_factor(model)
    if not isinstance(low, Tensor) or low.dtype != torch.uint8:
        came = low.dtype if isinstance(low, Tensor) else type(low).__name__
        raise ValueError(f"low must be a torch.uint8 tensor of values 0..255, got {came}")
    channels = model.config.shape[0]
    if low.dim() != 4 or low.shape[1] != channels or not low.numel():
        raise ValueError(f"low must have shape (n, {channels}, h, w) for this model, got {tuple(low.shape)}")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")


def _steps(model: ImageTransformer, groups: Sequence[Group], consistent: bool) -> list[int]:
    """How many steps `generate` takes for each group."""
    row, col = (axis // (model.config.factor or 1) for axis in (model.layout.positions.row, model.layout.positions.col))
    known = {group.known.tobytes(): group.known for group in groups}
    steps = {key: len(schedule_of(model, mask[row, col], consistent).steps) for key, mask in known.items()}
    return [steps[group.known.tobytes()] for group in groups]


def _after(progress: Progress | None, before: int, total: int) -> Progress | None:
    """`progress` of a part, as one over the `total`; `before` are the steps done before it."""
    return None if progress is None else lambda done, _: progress(before + done, total)


# ---- files ----


def enlarge_each(
    model: ImageTransformer,
    lows: Sequence[NDArray[np.uint8]],
    *,
    samples: int = 1,
    consistent: bool = False,
    progress: Progress | None = None,
    **how: Any,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The number of each of `lows` (c, h, w), of any sizes, with its enlargements (samples, c, f h, f w), as they come.

    Images of one size are drawn together, as many as leave the enlargements below `MOST_BYTES`. how: as in `enlarge`.
    """
    area = samples * model_factor(model) ** 2
    by_size: dict[tuple[int, int], list[int]] = {}
    for number, low in enumerate(lows):
        by_size.setdefault((low.shape[1], low.shape[2]), []).append(number)
    steps = {size: samples * _total_steps(model, size, consistent) if progress else 0 for size in by_size}
    total, done = sum(steps[size] * len(numbers) for size, numbers in by_size.items()), 0
    for size, numbers in by_size.items():
        most = max(1, MOST_BYTES // (area * lows[numbers[0]].size))
        for first in range(0, len(numbers), most):
            part = numbers[first : first + most]
            together = torch.from_numpy(np.stack([lows[number] for number in part]))
            part_done = _after(progress, done, total)
            images = enlarge(model, together, samples=samples, consistent=consistent, progress=part_done, **how)
            yield from zip(part, images.numpy(), strict=True)
            done += steps[size] * len(part)


def _total_steps(model: ImageTransformer, size: tuple[int, int], consistent: bool) -> int:
    groups = tiling(model, size).groups()
    return sum(steps * len(group.tiles) for steps, group in zip(_steps(model, groups, consistent), groups, strict=True))


def names(files: Sequence[Path], out: Path, samples: int) -> list[str]:
    """For each file the name of its pictures: its own, with _2, _3, ... where they would replace others or a file."""
    taken, chosen = {file.resolve() for file in files}, []
    for file in files:
        for number in count(1):
            name = file.stem if number == 1 else f"{file.stem}_{number}"
            paths = {path.resolve() for path in _paths(out, name, samples)}
            if taken.isdisjoint(paths):
                break
        taken |= paths
        chosen.append(name)
    return chosen


def write(out: Path, name: str, low: NDArray[np.uint8], images: NDArray[np.uint8], factor: int) -> Path:
    """Write the enlargements (samples, c, f h, f w) of `low` (c, h, w), two plain ones, and a picture of all of them.

    The picture's path is returned. In it no image has more than `MOST_SHOWN` rows or columns: larger ones are shrunk.
    """
    every = np.concatenate([boxes.nearest(low[None], factor), measures.bicubic(low[None], factor), images])
    picture, *paths = _paths(out, name, len(images))
    for image, path in zip(every, paths, strict=True):
        pictures.save_png(pictures.picture(image), path)
    shown = _shrunk(every)
    width = pictures.PAGE_WIDTH // len(shown)
    scale = max(1, min(width // shown.shape[3], MOST_SHOWN // shown.shape[2]))
    headers = ["nearest", "bicubic", *["samples"] * len(images)]
    pictures.save_png(pictures.labelled_rows([("", shown)], headers, scale), picture)
    return picture


def _paths(out: Path, name: str, samples: int) -> list[Path]:
    """Of the picture of all, of the two plain enlargements, of the samples."""
    return [
        out / f"{name}{ending}.png" for ending in ("", "-nearest", "-bicubic", *(f"-{i + 1}" for i in range(samples)))
    ]


def _shrunk(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The images, by a whole factor smaller if they have more than `MOST_SHOWN` rows or columns."""
    by = -(-max(images.shape[2:]) // MOST_SHOWN)
    if by == 1:
        return images
    planes = [np.asarray(Image.fromarray(plane).reduce(by)) for plane in images.reshape(-1, *images.shape[2:])]
    return np.stack(planes).reshape(*images.shape[:2], *planes[0].shape)
