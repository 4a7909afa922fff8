"""How good, how varied and how new enlarged images are, and the bicubic enlargement to compare them with.

Images are uint8 arrays (n, c, h, w) with 1 or 3 channels; figures are floats, in levels (0..255) where they have that
unit.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from image_transformer.data.images import Images, check_arrays
from image_transformer.geometry.boxes import box_mean
from image_transformer.measures.fitting import LEVELS, tensor

SSIM_WINDOW = 11  # px


# ---- against the truth ----


def bicubic(low: Images, factor: int) -> Images:
    """Pillow's bicubic enlargement of (n, c, h, w) to (n, c, h factor, w factor)."""
    check_arrays(low)
    n, c, h, w = low.shape
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in low.reshape(-1, h, w)]
    size = (w * factor, h * factor)
    enlarged = [np.asarray(plane.resize(size, Image.Resampling.BICUBIC)) for plane in planes]
    return np.stack(enlarged).reshape(n, c, h * factor, w * factor)


def psnr(images: Images, truth: Images) -> float:
    """The mean over images of each one's peak signal-to-noise ratio in dB; infinite if any image equals its truth."""
    check_arrays(images, truth)
    measure = torchmetrics().peak_signal_noise_ratio
    return _mean_over_images(
        lambda a, b: measure(a, b, data_range=LEVELS, reduction="none", dim=(1, 2, 3)), images, truth
    )


def ssim(images: Images, truth: Images) -> float:
    """The mean over images of each one's structural similarity (Wang et al., 2004; Gaussian window), 1 if equal.

    Raises ValueError for images smaller than the window of 11 x 11.
    """
    check_arrays(images, truth)
    if min(images.shape[2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW}, got {images.shape}")
    measure = torchmetrics().structural_similarity_index_measure
    return _mean_over_images(lambda a, b: measure(a, b, data_range=LEVELS, reduction="none"), images, truth)


def inconsistency(images: Images, low: Images, factor: int) -> float:
    """The mean squared error, in levels squared, between the images' box means and `low`, which they enlarge."""
    means = box_mean(images, factor)
    check_arrays(means, low)
    return float(np.square(means.astype(np.float64) - low).mean())


def torchmetrics() -> Any:
    """The module that PSNR and SSIM come from; ImportError, with the command that installs it, if it is not there."""
    try:
        return importlib.import_module("torchmetrics.functional.image")
    except ImportError:
        need = "PSNR and SSIM need torchmetrics: pip install 'image-transformer-pytorch[eval]'"
        raise ImportError(need) from None


def _mean_over_images(
    measure: Callable[[Tensor, Tensor], Tensor], images: Images, truth: Images, batch: int = 100
) -> float:
    """The mean of measure(images, truth) -> (b,)."""
    parts = [slice(first, first + batch) for first in range(0, len(images), batch)]
    figures = [measure(tensor(images[part]).float(), tensor(truth[part]).float()) for part in parts]
    return float(torch.cat(figures).double().mean())


# ---- among themselves and the training images ----


def diversity(samples: Images) -> float:
    """How far samples of the same thing lie apart, in levels: (n, s, c, h, w) with s >= 2 samples of each of n things.

    The root of the mean, over things and sub-pixels, of the unbiased variance between the s samples.
    """
    if samples.dtype != np.uint8 or samples.ndim != 5 or not samples.size or samples.shape[1] < 2:
        raise ValueError(f"expected uint8 samples (n, s, c, h, w) with s >= 2, got {samples.dtype} {samples.shape}")
    return math.sqrt(np.mean([thing.var(axis=0, ddof=1).mean() for thing in samples]))


def nearest_neighbours(
    images: Images, train: Images, *, batch: int = 1000
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each image the index of the training image nearest to it, and its root mean squared error in levels.

    Both (n,); the first of equally near ones. Distances are Euclidean over all sub-pixels, and exact. `train` may be
    a memory map: `batch` of its images are in memory at a time.
    """
    check_arrays(images[:1], train[:1])
    a = _centred(images)
    size = np.square(a).sum(axis=1)
    index, least = np.zeros(len(images), np.int64), np.full(len(images), np.inf)
    for first in range(0, len(train), batch):
        b = _centred(train[first : first + batch])
        squares = size[:, None] - 2 * (a @ b.T) + np.square(b).sum(axis=1)
        near = squares.argmin(axis=1)
        found = squares[np.arange(len(a)), near]
        index = np.where(found < least, first + near, index)
        least = np.minimum(found, least)
    return index, np.sqrt(least / a.shape[1])


def _centred(images: Images) -> NDArray[np.float64]:
    """The images as rows (n, dims) of whole numbers from -128 to 127, whose products float64 adds without rounding."""
    return images.reshape(len(images), -1).astype(np.float64) - 128
