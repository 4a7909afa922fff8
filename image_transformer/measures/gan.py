"""The contrast to a likelihood: a generator that learns from a critic which tells its images from photographs.

A conditional GAN with an L1 loss beside the adversarial one, as in image-to-image translation (Isola et al., 2017),
with the hinge loss and spectral normalisation (Miyato et al., 2018). It has no likelihood; other noise, other images.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from image_transformer.data.images import Images, check_arrays
from image_transformer.geometry.boxes import box_mean
from image_transformer.measures.fitting import seeded, shuffled, tensor, to_levels, to_unit

NOISE = 16  # channels of noise at the low resolution
L1 = 10.0  # weight of the L1 loss, for images on [-1, 1]


@dataclass(frozen=True)
class Gan:
    """A trained generator."""

    network: nn.Module  # (b, c + NOISE, h, w) -> what to add to the nearest enlargement
    factor: int
    updates: int
    """Of the generator, in training."""

    @torch.inference_mode()
    def __call__(self, low: Images, *, seed: int = 0, batch: int = 100) -> Images:
        """`low` (n, c, h, w) enlarged to uint8 (n, c, h factor, w factor); another seed, other images."""
        check_arrays(low)
        with seeded(seed):
            parts = [tensor(low[first : first + batch]) for first in range(0, len(low), batch)]
            return np.concatenate([to_levels(_draw(self.network, part, self.factor)) for part in parts])


def fit_gan(
    images: Images, factor: int, *, minutes: float, seed: int = 0, batch: int = 16, width: int = 64, depth: int = 4
) -> Gan:
    """The `Gan` that so many CPU-minutes of this process make of `images` and their box means."""
    check_arrays(images)
    channels = images.shape[1]
    with seeded(seed):
        generator, critic = _generator(channels, factor, width, depth), _critic(2 * channels, width)
        optimizers = [
            torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.0, 0.9)) for network in (generator, critic)
        ]
        rows, updates, end = shuffled(len(images), batch, seed), 0, time.process_time() + 60 * minutes
        while time.process_time() < end or not updates:
            truth = tensor(images[np.sort(next(rows))])
            low = box_mean(truth, factor)
            given, real = F.interpolate(to_unit(low), scale_factor=factor, mode="nearest"), to_unit(truth)
            drawn = _draw(generator, low, factor)
            real_score = critic(torch.cat([real, given], 1))
            drawn_score = critic(torch.cat([drawn.detach(), given], 1))
            _step(optimizers[1], F.relu(1 - real_score).mean() + F.relu(1 + drawn_score).mean())
            _step(optimizers[0], L1 * F.l1_loss(drawn, real) - critic(torch.cat([drawn, given], 1)).mean())
            updates += 1
    return Gan(generator.eval(), factor, updates)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _generator(channels: int, factor: int, width: int, depth: int) -> nn.Sequential:
    """Residual layers at the low resolution, then a pixel shuffle and two layers at the high one."""
    last = nn.Conv2d(width // 2, channels, 3, padding=1)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)  # begin with the nearest enlargement
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
    widths = [channels, width // 2, width, width]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, 1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(width, 1, 3, padding=1)))


def _draw(network: nn.Module, low: Tensor, factor: int) -> Tensor:
    """uint8 (b, c, h, w) -> float (b, c, h factor, w factor), about -1 to 1."""
    x = to_unit(low)
    noise = torch.randn(len(x), NOISE, *x.shape[2:])
    drawn: Tensor = F.interpolate(x, scale_factor=factor, mode="nearest") + network(torch.cat([x, noise], 1))
    return drawn
