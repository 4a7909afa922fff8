"""What the measures share: images as tensors and back, and how small networks are fitted, as a function of a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from image_transformer.data.images import Images

LEVELS = 255.0  # from black to white


def tensor(images: Images) -> Tensor:
    """The images as a tensor, copied, since a memory map is read-only."""
    return torch.from_numpy(np.array(images))


def to_unit(images: Tensor) -> Tensor:
    """uint8 levels as floats from -1 to 1."""
    return images.float() / (LEVELS / 2) - 1


def to_levels(images: Tensor) -> Images:
    """Floats from -1 to 1 as the nearest uint8 levels; what lies outside is clipped."""
    return ((images + 1) * (LEVELS / 2)).round().clamp(0, LEVELS).byte().numpy()


def classifier(channels: int, outputs: int) -> nn.Sequential:
    """A small network from images (b, c, h, w), -1 to 1, to (b, outputs)."""
    layers: list[nn.Module] = []
    for before, after, stride in [(channels, 32, 1), (32, 64, 2), (64, 64, 2)]:
        convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, outputs))


def descend(network: nn.Module, loss: Callable[[], Tensor], updates: int, lr: float, weight_decay: float = 0.0) -> None:
    """So many updates of Adam on the losses, the rate falling linearly to 0."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, updates)
    for _ in range(updates):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()


@torch.inference_mode()
def answers(network: Callable[[Tensor], Tensor], images: Images, batch: int = 100) -> NDArray[np.float32]:
    """What a network of images (b, c, h, w), -1 to 1, says of uint8 `images` (n, c, h, w), (n, ...)."""
    parts = [to_unit(tensor(images[first : first + batch])) for first in range(0, len(images), batch)]
    return torch.cat([network(part) for part in parts]).numpy()


def shuffled(n: int, batch: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Batches of the rows 0..n-1 in a new random order in every pass, for ever; the last of a pass may be smaller."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(n)
        yield from np.split(order, range(batch, n, batch))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of torch are those of the seed inside, and outside as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
