"""Enlarging images of any size with a model of one size: tiles that overlap, each given what those before it drew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_transformer.conditions.low import Low
from image_transformer.geometry.tiles import Group, Tiling
from image_transformer.inference.sampling import Progress, generate
from image_transformer.inference.steps import plan_of
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
    options: as in `generate`; what the model is told beside `low` is told of all images.
    progress: called with (steps done, steps in all), over all tiles of all samples.
    Raises ValueError for a model that is not for super-resolution, and for arguments out of range or of a wrong shape.

    >>> it.enlarge(superres, photo, samples=3).shape         # photo: uint8 (1, 3, 5, 7)
    torch.Size([1, 3, 3, 10, 14])
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
            model, len(numbers), low=lows.flatten(0, 1).repeat_interleave(samples, 0), consistent=consistent,
            known=torch.stack([images[window] for window in windows]).flatten(0, 2),
            known_mask=torch.from_numpy(group.known.repeat(factor, 0).repeat(factor, 1)), numbers=numbers,
            progress=_after(progress, done, total), **options,
        )  # fmt: skip
        for window, part in zip(windows, drawn.unflatten(0, (-1, n, samples)), strict=True):
            images[window] = part
        done += most * len(numbers)
    return images[..., : factor * height, : factor * width]


def enlarge_each(
    model: ImageModel,
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


def enlarges(model: ImageModel) -> bool:
    """Whether a model is for super-resolution."""
    return model.config.condition(Low) is not None


def model_factor(model: ImageModel, wanted: int | None = None) -> int:
    """The factor by which a model enlarges. ValueError if there is none, or if another one is wanted."""
    low: Low | None = model.config.condition(Low)
    if low is None:
        how = "train one with: image-transformer train superres-cifar10"
        raise ValueError(f"this model is not for super-resolution; {how}")
    if wanted not in (None, low.factor):
        raise ValueError(f"this model enlarges by a factor of {low.factor}, not of {wanted}")
    return low.factor


def tiling(model: ImageModel, size: tuple[int, int]) -> Tiling:
    """The tiles of a low-resolution image of `size` (rows, columns)."""
    factor = model_factor(model)
    _, height, width = model.config.shape
    return Tiling(size, (height // factor, width // factor))


def _check(model: ImageModel, low: Tensor, samples: int) -> None:
    model_factor(model)
    if not isinstance(low, Tensor) or low.dtype != torch.uint8:
        came = low.dtype if isinstance(low, Tensor) else type(low).__name__
        raise ValueError(f"low must be a torch.uint8 tensor of values 0..255, got {came}")
    channels = model.config.shape[0]
    if low.dim() != 4 or low.shape[1] != channels or not low.numel():
        raise ValueError(f"low must have shape (n, {channels}, h, w) for this model, got {tuple(low.shape)}")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")


def _steps(model: ImageModel, groups: Sequence[Group], consistent: bool) -> list[int]:
    """How many steps `generate` takes for each group."""
    factor, p = model_factor(model), model.layout.positions
    known = {group.known.tobytes(): group.known[p.row // factor, p.col // factor] for group in groups}
    steps = {key: len(plan_of(model, mask, in_order=consistent).visited) for key, mask in known.items()}
    return [steps[group.known.tobytes()] for group in groups]


def _total_steps(model: ImageModel, size: tuple[int, int], consistent: bool) -> int:
    groups = tiling(model, size).groups()
    return sum(steps * len(group.tiles) for steps, group in zip(_steps(model, groups, consistent), groups, strict=True))


def _after(progress: Progress | None, before: int, total: int) -> Progress | None:
    """`progress` of a part, as one over the `total`; `before` are the steps done before it."""
    return None if progress is None else lambda done, _: progress(before + done, total)
