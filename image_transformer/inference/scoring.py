"""Exact bits/dim: every image once, float64 sums, one division; and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_transformer.conditions.base import Condition, select
from image_transformer.data.images import ImageData, check_images
from image_transformer.model import ImageModel, evaluating
from image_transformer.processes import processes

Images = Tensor | NDArray[np.uint8]
Progress = Callable[[int, int], None]  # (images done, images in all)


@dataclass(frozen=True)
class Evaluation:
    """bits/dim of a set of images: of all (a ratio of totals), of each, and the standard error over images."""

    bits_per_dim: float
    standard_error: float
    per_image: NDArray[np.float64]  # (n,)


def evaluate(
    model: ImageModel,
    images: Images,
    *,
    consistent: bool = False,
    batch: int = 32,
    progress: Progress | None = None,
    **told: Any,
) -> Evaluation:
    """bits/dim of uint8 `images` (n, c, h, w) under the model, dropout off.

    told: what the model is told of each image, or of all, such as label=, as in `generate`. What follows from an image
    itself, as its box means do, need not be told; `consistent` as in `log_prob`.
    The total is summed exactly (`math.fsum`), so the order of the images cannot change it; the batch size can, in
    the last bits of float32, since matrix products of other sizes round differently.
    Raises ValueError if `images` is empty, not uint8, or not of the model's shape.

    >>> it.evaluate(model, images).per_image.shape
    (2,)
    """
    nats = _nats(model, images, told, _totals, consistent=consistent, batch=batch, progress=progress)
    dims = model.layout.num_dims
    per_image = nats / (dims * math.log(2))
    return Evaluation(math.fsum(nats) / (len(nats) * dims * math.log(2)), standard_error(per_image), per_image)


def standard_error(values: NDArray[Any]) -> float:
    """The standard error of the mean of `values` `(n,)`; NaN of a single one."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def bits_per_dim(model: ImageModel, images: Images, **options: Any) -> float:
    """Exact bits/dim of uint8 `images` (n, c, h, w): total negative log2-likelihood over the number of sub-pixels.

    Options as in `evaluate`.

    >>> it.bits_per_dim(model, images) == it.evaluate(model, images).bits_per_dim
    True
    """
    return evaluate(model, images, **options).bits_per_dim


def bits(
    model: ImageModel, images: Images, *, batch: int = 32, progress: Progress | None = None, **told: Any
) -> NDArray[np.float64]:
    """Bits of every sub-pixel given all earlier ones, (n, c, h, w): where in the images the bits go.

    >>> it.bits(model, images).shape
    (2, 3, 8, 8)
    """
    return _nats(model, images, told, Tensor.numpy, batch=batch, progress=progress) / math.log(2)


def rank(model: ImageModel, images: Images, texts: Sequence[str], **options: Any) -> NDArray[np.float64]:
    """The probability of each of `texts` given each image, (n, texts), by Bayes, where all were equally likely before.

    A row sums to one. Options as in `bits`, with the model's other conditions. ValueError for a model that is not
    text-conditional.

    >>> it.rank(by_words, images, ["a red circle", "a blue square"]).shape
    (2, 2)
    """
    if isinstance(texts, str):
        raise ValueError("texts must be a list of texts, got a single string")
    return posterior(nats_of_choices(model, images, "text", texts, **options))


def posterior(nats: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probabilities (n, choices) of equally frequent choices under which images cost so many `nats`."""
    mass = np.exp(nats.min(1, keepdims=True) - nats)
    return mass / mass.sum(1, keepdims=True)


def classify(model: ImageModel, images: Images, **options: Any) -> NDArray[np.int64]:
    """The class under which each image is likeliest, `(n,)`: the Bayes classifier of equally frequent classes.

    Of any condition with a fixed list of choices, the first of the model's: the number of the likeliest. Options as in
    `bits`, with the model's other conditions. ValueError unless the model has such a condition.

    >>> it.classify(by_class, images).shape
    (2,)
    """
    condition = chosen_from(model)
    if condition is None:
        raise ValueError("only a class-conditional model can classify")
    options.pop(condition.name, None)
    return nats_of_choices(model, images, condition.name, condition.choices, **options).argmin(1)


def nats_of_choices(
    model: ImageModel, images: Images, name: str, choices: Sequence[str], *, batch: int = 32,
    progress: Progress | None = None, **told: Any,
) -> NDArray[np.float64]:  # fmt: skip
    """What each image costs in nats under each of the values of the condition called `name`, (n, choices)."""
    if not len(choices):
        raise ValueError(f"there must be at least one {name} to choose from, got none")
    found, n = [], len(images)
    for number, choice in enumerate(choices):
        part = part_of(progress, n * number, n, n * len(choices))
        found.append(_nats(model, images, {**told, name: choice}, _totals, batch=batch, progress=part))
    return np.stack(found, 1)


def part_of(progress: Progress | None, before: int, its: int, total: int) -> Progress | None:
    """`progress` of a part, which is `its` of the `total`; `before` are done before it."""
    return None if progress is None else lambda done, of: progress(before + its * done // of, total)


def chosen_from(model: ImageModel) -> Condition | None:
    """The first condition with a fixed list of choices; None if the model has none."""
    return next((condition for condition in model.config.conditions if condition.choices), None)


def _nats(
    model: ImageModel,
    images: Images,
    told: Mapping[str, Any],
    what: Callable[[Tensor], NDArray[np.float64]],
    *,
    batch: int,
    consistent: bool = False,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """`what` is made of the negative log-likelihoods in nats of each batch, float64 (b, c, h, w), of all images.

    Processes that work together take the batches in turn, and have all of it in the end.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if len(images) == 0:
        raise ValueError("bits/dim of no images is not defined: expected at least one, got none")
    given = model.given(len(images), told, follow=model.following)
    found, team = {}, processes()
    with evaluating(model):
        for first in range(batch * team.rank, len(images), batch * team.count):
            rows = slice(first, first + batch)
            part = images[rows]
            part = part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))  # a memory map is read-only
            check_images(part, model.config.shape)
            untold = set(model.following) - given.keys()
            follows = model.of(ImageData("", "", part.cpu().numpy()), only=untold) if untold else {}
            nats = -model.score(part, {**select(given, rows), **follows}, consistent).double().cpu()
            found[first] = what(nats)
            if progress is not None:
                progress(min(first + batch, len(images)), len(images))
    everything = {first: part for one in team.all(found) for first, part in one.items()}
    return np.concatenate([everything[first] for first in sorted(everything)])


def _totals(nats: Tensor) -> NDArray[np.float64]:
    """The nats of each image, (b,)."""
    return nats.flatten(1).sum(1).numpy()
