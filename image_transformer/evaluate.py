"""Exact bits/dim: every image once, float64 sums, one division."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_transformer.model import ImageTransformer


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
    batch: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """bits/dim of uint8 `images` (n, c, h, w) under the model, dropout off.

    The total is summed exactly (`math.fsum`), so the order of the images cannot change it; the batch size can, in
    the last bits of float32, since matrix products of other sizes round differently.
    Raises ValueError if `images` is empty, not uint8, or not of the model's shape.
    """
    nats = np.concatenate([nats.flatten(1).sum(1).numpy() for nats in _nats(model, images, batch, progress)])
    dims = model.layout.num_dims
    per_image = nats / (dims * math.log(2))
    error = float(per_image.std(ddof=1) / math.sqrt(len(nats))) if len(nats) > 1 else math.nan
    return Evaluation(math.fsum(nats) / (len(nats) * dims * math.log(2)), error, per_image)


def bits_per_dim(model: ImageTransformer, images: Tensor | NDArray[np.uint8], *, batch: int = 32) -> float:
    """Exact bits/dim of uint8 `images` (n, c, h, w): total negative log2-likelihood over the number of sub-pixels."""
    return evaluate(model, images, batch=batch).bits_per_dim


def bits(model: ImageTransformer, images: Tensor | NDArray[np.uint8], *, batch: int = 32) -> NDArray[np.float64]:
    """Bits of every sub-pixel given all earlier ones, (n, c, h, w): where in the images the bits go."""
    return np.concatenate([nats.numpy() for nats in _nats(model, images, batch, None)]) / math.log(2)


@torch.inference_mode()
def _nats(
    model: ImageTransformer,
    images: Tensor | NDArray[np.uint8],
    batch: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Tensor]:
    """Negative log-likelihoods in nats, float64 (b, c, h, w), batch by batch."""
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if len(images) == 0:
        raise ValueError("bits/dim of no images is not defined: expected at least one, got none")
    training = model.training
    model.eval()
    try:
        for first in range(0, len(images), batch):
            part = images[first : first + batch]
            part = part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))  # a memory map is read-only
            yield -model.log_prob(part.to(model.device)).double().cpu()
            if progress is not None:
                progress(min(first + batch, len(images)), len(images))
    finally:
        model.train(training)
