"""Drawing images of any size with a model of one size: tiles that overlap, each given what those before it drew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_transformer.conditions.base import repeated
from image_transformer.conditions.low import Low
from image_transformer.conditions.source import Source
from image_transformer.geometry.tiles import Tiling
from image_transformer.inference.sampling import Progress, generate
from image_transformer.model import ImageModel

MOST_BYTES = 2**28  # of images drawn together


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
            progress=_after(progress, done, its, sum(pixels)), **of_tiles, **options,
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
            part_done = _after(progress, done, its, total)
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


def _after(progress: Progress | None, before: int, its: int, total: int) -> Progress | None:
    """`progress` of a part, which draws `its` pixels, as one of the `total`; `before` are drawn before it."""
    return None if progress is None else lambda done, of: progress(before + its * done // of, total)
