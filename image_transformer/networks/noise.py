"""Random numbers that are a function of the image they are for, not of the batch it comes in or of the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout


def uniform(keys: Tensor, stream: int, count: int) -> Tensor:
    """Numbers on [0, 1), float32 (b, count), for int32 `keys` (b,), those of the images; another stream, others."""
    return ((_bits(keys, stream, count) >> 8) & 0xFFFFFF) * 2.0**-24


def normal(keys: Tensor, stream: int, count: int) -> Tensor:
    """Standard normal numbers, float32 (b, count), by Box and Muller (1958) from two streams, this one and the next."""
    radius = (-2 * torch.log1p(-uniform(keys, stream, count))).sqrt()
    return radius * torch.cos(2 * math.pi * uniform(keys, stream + 1, count))


def _bits(keys: Tensor, stream: int, count: int) -> Tensor:
    """Random int32 (b, count): a hash of key, stream and place, Wellons' lowbias32, in integers that wrap around."""
    places = torch.arange(count, dtype=torch.int32, device=keys.device)
    return _mixed(_mixed(_mixed(keys) + stream)[:, None] ^ places)


def _mixed(x: Tensor) -> Tensor:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32)):
        x = (x ^ _shifted(x, shift)) * factor
    return x ^ _shifted(x, 16)


def _shifted(x: Tensor, by: int) -> Tensor:
    """To the right, with zeros from the left."""
    return (x >> by) & (2 ** (32 - by) - 1)


class Dropout(nn.Module):
    """Dropout whose zeros are a function of the images' keys, where `tell_keys` was told some; p to 1 / 65,536.

    Each of a network's is called once a pass, so that layers that are run again for their gradients drop the same.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.keys: Tensor | None = None
        self.stream = 0

    def forward(self, x: Tensor) -> Tensor:
        """`x` (b, ...) with a share p of its numbers 0 and the others as much larger, in training."""
        if not self.training or not self.p or self.keys is None:
            return dropout(x, self.p, self.training)
        count = x[0].numel()
        levels = _bits(self.keys, self.stream, (count + 1) // 2).view(torch.int16)[:, :count]  # two of each hash
        zeros = round(self.p * 2**16)
        kept = (levels >= zeros - 2**15).view(x.shape)
        return x * kept * (2**16 / (2**16 - zeros))


def tell_keys(network: nn.Module, keys: Tensor | None) -> None:
    """Tell every Dropout of the network the keys, int32 (b,), of the images of the next pass; None: draw anew."""
    found = (module for module in network.modules() if isinstance(module, Dropout))
    for number, module in enumerate(found):
        module.keys, module.stream = keys, number
