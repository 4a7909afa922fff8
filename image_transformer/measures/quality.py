"""How good, how varied and how new enlarged images are, and two plain enlargements to compare them with.

Images are uint8 arrays (n, c, h, w) with 1 or 3 channels; figures are floats, in levels (0..255) where they have that
unit. What is random is a function of its seed.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from image_transformer.geometry.boxes import box_mean

Images = NDArray[np.uint8]

LEVELS = 255.0  # from black to white
SSIM_WINDOW = 11  # px
EXACT = 1024  # products of two centred sub-pixels that float32 can add without rounding: 2^10 of at most 2^14


# ---- against the truth ----


def bicubic(low: Images, factor: int) -> Images:
    """Pillow's bicubic enlargement of (n, c, h, w) to (n, c, h factor, w factor)."""
    _check(low)
    n, c, h, w = low.shape
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in low.reshape(-1, h, w)]
    size = (w * factor, h * factor)
    enlarged = [np.asarray(plane.resize(size, Image.Resampling.BICUBIC)) for plane in planes]
    return np.stack(enlarged).reshape(n, c, h * factor, w * factor)


def psnr(images: Images, truth: Images) -> float:
    """The mean over images of each one's peak signal-to-noise ratio in dB; infinite if any image equals its truth."""
    _check_alike(images, truth)
    measure = torchmetrics().peak_signal_noise_ratio
    return _mean_over_images(
        lambda a, b: measure(a, b, data_range=LEVELS, reduction="none", dim=(1, 2, 3)), images, truth
    )


def ssim(images: Images, truth: Images) -> float:
    """The mean over images of each one's structural similarity (Wang et al., 2004; Gaussian window), 1 if equal.

    Raises ValueError for images smaller than the window of 11 x 11.
    """
    _check_alike(images, truth)
    if min(images.shape[2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW}, got {images.shape}")
    measure = torchmetrics().structural_similarity_index_measure
    return _mean_over_images(lambda a, b: measure(a, b, data_range=LEVELS, reduction="none"), images, truth)


def inconsistency(images: Images, low: Images, factor: int) -> float:
    """The mean squared error, in levels squared, between the images' box means and `low`, which they enlarge."""
    means = box_mean(images, factor)
    _check_alike(means, low)
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
    figures = [measure(_tensor(images[part]).float(), _tensor(truth[part]).float()) for part in parts]
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
    _check_alike(images[:1], train[:1])
    a = _centred(images)
    size = np.square(a).sum(axis=1, dtype=np.float64)
    index, least = np.zeros(len(images), np.int64), np.full(len(images), np.inf)
    for first in range(0, len(train), batch):
        b = _centred(train[first : first + batch])
        squares = size[:, None] - 2 * _products(a, b) + np.square(b).sum(axis=1, dtype=np.float64)
        near = squares.argmin(axis=1)
        found = squares[np.arange(len(a)), near]
        index = np.where(found < least, first + near, index)
        least = np.minimum(found, least)
    return index, np.sqrt(least / a.shape[1])


def _centred(images: Images) -> NDArray[np.float32]:
    """The images as rows (n, dims) of whole numbers from -128 to 127."""
    return images.reshape(len(images), -1).astype(np.float32) - 128


def _products(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """The inner products (n, m) of rows (n, dims) and (m, dims) of `_centred` values, exact.

    No partial sum over 1,024 sub-pixels exceeds 2^24, below which float32 holds every whole number.
    """
    total = np.zeros((len(a), len(b)))
    for first in range(0, a.shape[1], EXACT):
        total += a[:, first : first + EXACT] @ b[:, first : first + EXACT].T
    return total


# ---- the regression ----


@dataclass(frozen=True)
class Regression:
    """A network trained with squared error to enlarge: it answers with the mean of what might be, which is blurred."""

    network: nn.Module  # low float (b, c, h, w) from -1 to 1 -> what to add to its nearest enlargement
    factor: int

    @torch.inference_mode()
    def __call__(self, low: Images, *, batch: int = 100) -> Images:
        """`low` (n, c, h, w) enlarged to uint8 (n, c, h factor, w factor)."""
        _check(low)
        parts = [_tensor(low[first : first + batch]) for first in range(0, len(low), batch)]
        return np.concatenate([_to_levels(_enlarge(self.network, part, self.factor)) for part in parts])


def fit_regression(
    images: Images, factor: int, *, seed: int = 0, updates: int = 2000, batch: int = 32, width: int = 64, depth: int = 4
) -> Regression:
    """The `Regression` from the box means of `images` to them; a minute on one core for 32 x 32 and a factor of 4.

    The network has `depth` hidden layers of `width` channels, all at the low resolution, and ends in a pixel shuffle
    (Shi et al., 2016). Adam, its rate falling linearly to 0. Raises ValueError if factor does not divide the images.
    """
    _check(images)
    low = box_mean(images[:1], factor)
    rows = _shuffled(len(images), batch, seed)
    with _seeded(seed):
        network = _regression_network(low.shape[1], factor, width, depth)

        def loss() -> Tensor:
            truth = _tensor(images[np.sort(next(rows))])
            return F.mse_loss(_enlarge(network, box_mean(truth, factor), factor), _unit(truth))

        _descend(network, loss, updates, lr=1e-3)
    return Regression(network.eval(), factor)


def _regression_network(channels: int, factor: int, width: int, depth: int) -> nn.Sequential:
    widths = [channels] + [width] * depth
    hidden = [layer for i in range(depth) for layer in (nn.Conv2d(widths[i], widths[i + 1], 3, padding=1), nn.ReLU())]
    last = nn.Conv2d(width, channels * factor**2, 3, padding=1)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)  # begin with the nearest enlargement
    return nn.Sequential(*hidden, last, nn.PixelShuffle(factor))


def _enlarge(network: nn.Module, low: Tensor, factor: int) -> Tensor:
    """uint8 (b, c, h, w) -> float (b, c, h factor, w factor), about -1 to 1."""
    x = _unit(low)
    return F.interpolate(x, scale_factor=factor, mode="nearest") + network(x)


# ---- the two-sample test ----


def two_sample_test(real: Images, fake: Images, *, seed: int = 0, passes: int = 20) -> tuple[float, float]:
    """The error rate of a classifier that learned to tell fake from real images, and its standard error.

    Both are fractions: an error of 0.5 means that it cannot tell them apart, 0 that it always can. Image i of both
    should be about the same thing: half of the things are learned from, and both images of each of the others are
    judged (Lopez-Paz and Oquab, 2017). Made for hundreds of things: the settings are fixed, and half a minute on one
    core for 1,000 of 32 x 32. Raises ValueError if the shapes differ or there are fewer than 4 images.
    """
    _check_alike(real, fake)
    if len(real) < 4:
        raise ValueError(f"expected at least 4 images of each kind, got {len(real)}")
    rows = np.random.default_rng(seed).permutation(len(real))
    learned, judged = np.split(rows, [len(rows) // 2])
    with _seeded(seed):
        network = _fit_classifier(real[learned], fake[learned], seed, passes)
    logits_real, logits_fake = _logits(network, real[judged]), _logits(network, fake[judged])
    error = float(np.concatenate([logits_real > 0, logits_fake <= 0]).mean())
    return error, math.sqrt(error * (1 - error) / (2 * len(judged)))


def _fit_classifier(real: Images, fake: Images, seed: int, passes: int, batch: int = 32) -> nn.Module:
    """A network (b, c, h, w) -> (b,) log-odds of being fake; each batch holds both images of the same things."""
    network = _classifier(real.shape[1])
    rows = _shuffled(len(real), batch, seed)

    def loss() -> Tensor:
        pick = next(rows)
        pairs = torch.stack([_tensor(real[pick]), _tensor(fake[pick])])
        flip = torch.rand(1, len(pick), 1, 1, 1) < 0.5  # both images of a thing, or none
        x = _unit(torch.where(flip, pairs.flip(-1), pairs))
        is_fake = torch.arange(2.0).repeat_interleave(len(pick))
        return F.binary_cross_entropy_with_logits(network(x.flatten(0, 1)), is_fake)

    _descend(network, loss, passes * -(-len(real) // batch), lr=2e-3, weight_decay=1e-2)
    return network.eval()


def _classifier(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after, stride in [(channels, 32, 1), (32, 64, 2), (64, 64, 2)]:
        convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 1), nn.Flatten(0)
    )


@torch.inference_mode()
def _logits(network: nn.Module, images: Images, batch: int = 100) -> NDArray[np.float32]:
    parts = [_unit(_tensor(images[first : first + batch])) for first in range(0, len(images), batch)]
    return torch.cat([network(part) for part in parts]).numpy()


# ---- small pieces ----


def _descend(
    network: nn.Module, loss: Callable[[], Tensor], updates: int, lr: float, weight_decay: float = 0.0
) -> None:
    """So many updates of Adam on the losses, the rate falling linearly to 0."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, updates)
    for _ in range(updates):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()


def _shuffled(n: int, batch: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Batches of the rows 0..n-1 in a new random order in every pass, for ever; the last of a pass may be smaller."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(n)
        yield from np.split(order, range(batch, n, batch))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers of torch are those of the seed inside, and outside as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _tensor(images: Images) -> Tensor:
    return torch.from_numpy(np.array(images))  # a memory map is read-only


def _unit(images: Tensor) -> Tensor:
    """uint8 levels as floats from -1 to 1."""
    return images.float() / (LEVELS / 2) - 1


def _to_levels(images: Tensor) -> Images:
    """Floats from -1 to 1 as the nearest uint8 levels; what lies outside is clipped."""
    return ((images + 1) * (LEVELS / 2)).round().clamp(0, LEVELS).byte().numpy()


def _check(images: Images) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
        raise ValueError(f"expected uint8 images (n, 1 or 3, h, w), got {images.dtype} {images.shape}")


def _check_alike(images: Images, others: Images) -> None:
    _check(images)
    _check(others)
    if images.shape != others.shape:
        raise ValueError(f"expected images of equal shape, got {images.shape} and {others.shape}")
