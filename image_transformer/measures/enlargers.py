"""What learns to enlarge, beside a model for super-resolution: a network trained with squared error, and a GAN.

The GAN is conditional, with an L1 loss beside the adversarial one, as in image-to-image translation (Isola et al.,
2017), the hinge loss and spectral normalisation (Miyato et al., 2018). It has no likelihood; other noise, other images.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from image_transformer.data.images import Images, check_arrays
from image_transformer.geometry.boxes import box_mean
from image_transformer.measures.fitting import answers, descend, seeded, shuffled, tensor, to_levels, to_unit

NOISE = 16  # channels of noise at the low resolution
L1 = 10.0  # weight of the L1 loss, for images on [-1, 1]


class Draw(Protocol):
    """Low images (n, c, h, w) enlarged to uint8 (n, c, h factor, w factor); another seed, other images."""

    def __call__(self, low: Images, *, seed: int = 0) -> Images: ...


def fit_regression(
    images: Images, factor: int, *, seed: int = 0, updates: int = 2000, batch: int = 32, width: int = 64, depth: int = 4
) -> Callable[[Images], Images]:
    """What enlarges (n, c, h, w) to (n, c, h factor, w factor): with the mean of what might be, which is blurred.

    Learned from `images` and their box means, in a minute on one core for 32 x 32 and a factor of 4. The network has
    `depth` hidden layers of `width` channels, all at the low resolution, and ends in a pixel shuffle (Shi et al.,
    2016). Adam, its rate falling linearly to 0. Raises ValueError if factor does not divide the images.
    """
    check_arrays(images)
    channels, rows = box_mean(images[:1], factor).shape[1], shuffled(len(images), batch, seed)
    with seeded(seed):
        widths = [channels, *[width] * depth]
        hidden = [layer for a, b in pairwise(widths) for layer in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU())]
        network = nn.Sequential(*hidden, _zero(width, channels * factor**2), nn.PixelShuffle(factor))

        def enlarged(x: Tensor) -> Tensor:
            return _nearest(x, factor) + network(x)

        def loss() -> Tensor:
            truth = tensor(images[np.sort(next(rows))])
            return F.mse_loss(enlarged(to_unit(box_mean(truth, factor))), to_unit(truth))

        descend(network, loss, updates, lr=1e-3)
    return lambda low: to_levels(torch.from_numpy(answers(enlarged, low)))


def fit_gan(
    images: Images, factor: int, *, minutes: float, seed: int = 0, batch: int = 16, width: int = 64, depth: int = 4
) -> Draw:
    """What so many CPU-minutes of this process make of `images` and their box means."""
    check_arrays(images)
    channels = images.shape[1]
    with seeded(seed):
        generator, critic = _generator(channels, factor, width, depth), _critic(2 * channels, width)
        optimizers = [torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.0, 0.9)) for net in (generator, critic)]

        def drawn(x: Tensor) -> Tensor:
            noise = torch.randn(len(x), NOISE, *x.shape[2:])
            return _nearest(x, factor) + generator(torch.cat([x, noise], 1))

        rows, end = shuffled(len(images), batch, seed), time.process_time() + 60 * minutes
        while True:
            truth = tensor(images[np.sort(next(rows))])
            low, real = to_unit(box_mean(truth, factor)), to_unit(truth)
            given, made = _nearest(low, factor), drawn(low)
            real_score = critic(torch.cat([real, given], 1))
            made_score = critic(torch.cat([made.detach(), given], 1))
            _step(optimizers[1], F.relu(1 - real_score).mean() + F.relu(1 + made_score).mean())
            _step(optimizers[0], L1 * F.l1_loss(made, real) - critic(torch.cat([made, given], 1)).mean())
            if time.process_time() >= end:
                break

    def draw(low: Images, *, seed: int = 0) -> Images:
        with seeded(seed):
            return to_levels(torch.from_numpy(answers(drawn, low)))

    return draw


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _nearest(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="nearest")


def _zero(inputs: int, outputs: int) -> nn.Conv2d:
    """A layer that gives nothing at first: networks begin with the nearest enlargement."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _generator(channels: int, factor: int, width: int, depth: int) -> nn.Sequential:
    """Residual layers at the low resolution, then a pixel shuffle and two layers at the high one."""
    last = _zero(width // 2, channels)
    return nn.Sequential(
        nn.Conv2d(channels + NOISE, width, 3, padding=1),
        *(_Residual(width) for _ in range(depth)),
        nn.Conv2d(width, width // 2 * factor**2, 3, padding=1),
        nn.PixelShuffle(factor),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width // 2, width // 2, 3, padding=1),
        nn.LeakyReLU(0.2),
        last,
    )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LeakyReLU(0.2), nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.2), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


def _critic(channels: int, width: int) -> nn.Sequential:
    """Three halvings, and a score for each patch: above 0 for photographs."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise([channels, width // 2, width, width]):
        layers += [spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, 1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(width, 1, 3, padding=1)))
