"""PixelCNN++ (Salimans et al., 2017): whole pixels, gated residual layers, at three sizes with shortcuts between them.

As in the authors' code, but that weights are scaled once, by `closed_form_start`, and not normalised in training.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, pad

from image_transformer.conditions.base import Condition
from image_transformer.conditions.label import Label
from image_transformer.config.rivals import PixelCNNpp as Config
from image_transformer.geometry.order import Layout
from image_transformer.likelihoods.base import Likelihood
from image_transformer.networks.noise import Dropout
from image_transformer.networks.raster import RasterNetwork, exactly
from image_transformer.networks.transformer import Vector

SIZES = 3  # the whole, a half, a quarter


class PixelCNNpp(RasterNetwork):
    """Two streams: of the rows above, and of these and the pixels to the left (2.3), with shortcuts (2.4, figure 2)."""

    VECTORS: ClassVar[dict[type[Condition], Any]] = {Label: Vector}

    down: Any
    up: Any

    def __init__(self, config: Config, layout: Layout, likelihood: Likelihood) -> None:
        super().__init__(config, layout, likelihood, config.width)
        depth, width = config.depth, config.width
        channels = layout.channels + 1  # one says where the image is, for its edges
        self.above = CausalConv(channels, width, (2, 3))
        self.above_left = nn.ModuleList([CausalConv(channels, width, (1, 3)), CausalConv(channels, width, (2, 1))])
        self.down = nn.ModuleList(nn.ModuleList(TwoStreams(config, False) for _ in range(depth)) for _ in range(SIZES))
        self.shrink = nn.ModuleList(Shrink(width) for _ in range(SIZES - 1))
        self.up = nn.ModuleList(
            nn.ModuleList(TwoStreams(config, True) for _ in range(depth + (1 if i else 0))) for i in range(SIZES)
        )
        self.grow = nn.ModuleList(Grow(width) for _ in range(SIZES - 1))

    def features(self, x: Tensor, context: Tensor | None) -> Tensor:
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        rows, pixels = self.above_left
        streams = [(_down(exactly(self.above, x)), _down(exactly(rows, x)) + _right(exactly(pixels, x)))]
        for i, layers in enumerate(self.down):
            if i:
                streams.append(self.shrink[i - 1](*streams[-1]))
            for layer in layers:
                streams.append(layer(*streams[-1], context))
        u, ul = streams.pop()
        for i, layers in enumerate(self.up):
            if i:
                u, ul = self.grow[i - 1](u, ul)
            for layer in layers:
                u, ul = layer(u, ul, context, *streams.pop())
        return elu(ul)


class CausalConv(nn.Conv2d):
    """A convolution that sees its own pixel and those above (kernel width 3), or above and left (others)."""

    start = 1.0

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride)
        rows, columns = kernel
        self.margins = (columns // 2, columns // 2, rows - 1, 0) if columns == 3 else (columns - 1, 0, rows - 1, 0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad(x, self.margins))


class TwoStreams(nn.Module):
    """A residual layer of each stream; on the way up, each is also given its shortcut from the way down."""

    def __init__(self, config: Config, up: bool) -> None:
        super().__init__()
        self.above = Residual(config, (2, 3), 1 if up else 0)
        self.above_left = Residual(config, (2, 2), 2 if up else 1)

    def forward(self, u: Tensor, ul: Tensor, context: Tensor | None, *shortcuts: Tensor) -> tuple[Tensor, Tensor]:
        u = self.above(u, context, *shortcuts[:1])
        return u, self.above_left(ul, context, u, *shortcuts[1:])


class Residual(nn.Module):
    """The authors' `gated_resnet`: two convolutions, the second one gated, with dropout between them (2.5)."""

    def __init__(self, config: Config, kernel: tuple[int, int], others: int) -> None:
        super().__init__()
        width = config.width
        self.first = CausalConv(2 * width, width, kernel)
        self.other = nn.Conv2d(2 * others * width, width, 1) if others else None
        self.dropout = Dropout(config.dropout)
        self.second = CausalConv(2 * width, 2 * width, kernel)
        self.second.start = 0.1  # as in the authors' code
        self.by_class = nn.Linear(width, 2 * width, bias=False) if config.conditions else None

    def forward(self, x: Tensor, context: Tensor | None, *others: Tensor) -> Tensor:
        out = self.first(_both_signs(x))
        if self.other is not None:
            out = out + self.other(_both_signs(torch.cat(others, 1)))
        out = self.second(self.dropout(_both_signs(out)))
        if self.by_class is not None and context is not None:
            out = out + self.by_class(context)[:, :, None, None]
        value, gate = out.chunk(2, 1)
        return x + value * gate.sigmoid()


class Shrink(nn.Module):
    """Both streams at half the size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.above = CausalConv(width, width, (2, 3), stride=2)
        self.above_left = CausalConv(width, width, (2, 2), stride=2)

    def forward(self, u: Tensor, ul: Tensor) -> tuple[Tensor, Tensor]:
        return self.above(u).to(u.dtype), self.above_left(ul).to(ul.dtype)  # the streams stay as precise as they were


class Grow(nn.Module):
    """Both streams at twice the size; a new pixel is made of those that lay above it, and left."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.above = nn.ConvTranspose2d(width, width, (2, 3), 2, output_padding=1)
        self.above_left = nn.ConvTranspose2d(width, width, 2, 2)

    def forward(self, u: Tensor, ul: Tensor) -> tuple[Tensor, Tensor]:
        height, width = 2 * u.shape[2], 2 * u.shape[3]
        above = self.above(u)[:, :, :height, 1 : width + 1]
        return above.to(u.dtype), self.above_left(ul).to(ul.dtype)


def _both_signs(x: Tensor) -> Tensor:
    """The authors' `concat_elu`."""
    return elu(torch.cat([x, -x], 1))


def _down(x: Tensor) -> Tensor:
    return pad(x, (0, 0, 1, 0))[:, :, :-1]


def _right(x: Tensor) -> Tensor:
    return pad(x, (1, 0))[..., :-1]
