"""Exact bits/dim: every image once, float64 sums, one division."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_transformer.model import ImageTransformer, Label, check_images, class_numbers

Progress = Callable[[int, int], None]  # (images done, images in all)


@dataclass(frozen=True)
class Evaluation:
    """bits/dim of a set of images: of all (a ratio of totals), of each, and the standard error over images."""

    bits_per_dim: float
    standard_error: float
    per_image: NDArray[np.float64]  # (n,)


def evaluate(
    model: ImageTransformer,
    images: Tensor | NDArray[np.uint8],
    *,
    label: Label | None = None,
    consistent: bool = False,
    batch: int = 32,
    progress: Progress | None = None,
) -> Evaluation:
    """bits/dim of uint8 `images` (n, c, h, w) under the model, dropout off.

    label: the class of each image, for a class-conditional model. A model for super-resolution is given the images' own
    box means: its bits/dim are those of the image given its low resolution; `consistent` as in `log_prob`.
    The total is summed exactly (`math.fsum`), so the order of the images cannot change it; the batch size can, in
    the last bits of float32, since matrix products of other sizes round differently.
    Raises ValueError if `images` is empty, not uint8, or not of the model's shape.
    """
    parts = _nats(model, images, batch, progress, label=label, consistent=consistent)
    nats = np.concatenate([nats.flatten(1).sum(1).numpy() for nats in parts])
    dims = model.layout.num_dims
    per_image = nats / (dims * math.log(2))
    return Evaluation(math.fsum(nats) / (len(nats) * dims * math.log(2)), standard_error(per_image), per_image)


def standard_error(values: NDArray[Any]) -> float:
    """The standard error of the mean of `values` `(n,)`; NaN of a single one."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def bits_per_dim(
    model: ImageTransformer,
    images: Tensor | NDArray[np.uint8],
    *,
    label: Label | None = None,
    consistent: bool = False,
    batch: int = 32,
) -> float:
    """Exact bits/dim of uint8 `images` (n, c, h, w): total negative log2-likelihood over the number of sub-pixels."""
    return evaluate(model, images, label=label, consistent=consistent, batch=batch).bits_per_dim


def bits(
    model: ImageTransformer, images: Tensor | NDArray[np.uint8], *, label: Label | None = None, batch: int = 32
) -> NDArray[np.float64]:
    """Bits of every sub-pixel given all earlier ones, (n, c, h, w): where in the images the bits go."""
    return np.concatenate([nats.numpy() for nats in _nats(model, images, batch, label=label)]) / math.log(2)


def classify(
    model: ImageTransformer,
    images: Tensor | NDArray[np.uint8],
    *,
    batch: int = 32,
    progress: Progress | None = None,
) -> NDArray[np.int64]:
    """The class under which each image is likeliest, `(n,)`: the Bayes classifier of equally frequent classes.

    ValueError if the model is not class-conditional.
    """
    classes = range(len(model.config.classes or ()))
    if not classes:
        raise ValueError("only a class-conditional model can classify")

    def part(number: int) -> Progress | None:
        if progress is None:
            return None
        return lambda done, total: progress(number * total + done, len(classes) * total)

    scores = [evaluate(model, images, label=c, batch=batch, progress=part(c)).per_image for c in classes]
    return np.stack(scores).argmin(0)


@torch.inference_mode()
def _nats(
    model: ImageTransformer,
    images: Tensor | NDArray[np.uint8],
    batch: int,
    progress: Progress | None = None,
    *,
    label: Label | None = None,
    consistent: bool = False,
) -> Iterator[Tensor]:
    """Negative log-likelihoods in nats, float64 (b, c, h, w), batch by batch."""
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if len(images) == 0:
        raise ValueError("bits/dim of no images is not defined: expected at least one, got none")
    labels = None if label is None else class_numbers(label, len(images), model.config.classes or ())
    training = model.training
    model.eval()
    try:
        for first in range(0, len(images), batch):
            rows = slice(first, first + batch)
            part = images[rows]
            part = part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))  # a memory map is read-only
            check_images(part, model.config.shape)
            given, low = None if labels is None else labels[rows], model.low_of(part)
            nats = model.log_prob(part.to(model.device), label=given, low=low, consistent=consistent)
            yield -nats.double().cpu()
            if progress is not None:
                progress(min(first + batch, len(images)), len(images))
    finally:
        model.train(training)
