"""What the rivals have in common: feature maps over the image, masked so that the raster order holds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from image_transformer.conditions.base import Condition, Given, select
from image_transformer.config.rivals import Rival
from image_transformer.geometry.order import IntArray, Layout
from image_transformer.likelihoods.base import Likelihood, to_unit
from image_transformer.networks.base import Network, Recomputing, refuse_unknown
from image_transformer.networks.skip import LinearSkip, Neighbours

START_IMAGES = 32  # that the scales of the layers are fitted to


class RasterNetwork(Network):
    """An image on [-1, 1] -> feature maps -> the parameters of every position, by a linear map of each pixel's own.

    groups: how many positions the values of a pixel are; the features of a pixel are divided among them. A feature may
    depend on the values before its group's: of earlier pixels, and of earlier groups of its own pixel.
    VECTORS: what is made of a condition of each kind, `(condition, width)` -> a module that gives `(b, 1, width)`.
    """

    VECTORS: ClassVar[dict[type[Condition], Any]] = {}

    def __init__(self, config: Rival, layout: Layout, likelihood: Likelihood, features: int) -> None:
        super().__init__()
        self.config, self.layout = config, layout
        self.groups = layout.channels if layout.sub_pixels else 1
        refuse_unknown(config, self.VECTORS)
        told = config.conditions
        self.vectors = nn.ModuleDict({one.name: self.VECTORS[type(one)](one, config.width) for one in told})
        self.head = self.masked(features, self.groups * likelihood.num_params, 1)
        self.skip = Skip(layout, likelihood) if config.linear_skip else None
        if self.skip is not None:  # training starts from the skip
            likelihood.init_head(self.head.weight.data.flatten(1))
            self.head.bias.data.zero_()

    def masked(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        *,
        first: bool = False,
        parts: int = 1,
        start: float = 1.0,
    ) -> MaskedConv:
        """A convolution from feature maps to feature maps; `first`, from the channels of the image.

        parts: the outputs are so many equal parts, such as the gates of a layer, each divided among the groups.
        start: the standard deviation of what comes out at first.
        """
        seen = self.groups_of(inputs) + (1 if first else 0)  # a value is known from the next group on
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        return MaskedConv(seen, np.tile(self.groups_of(outputs // parts), parts), sides, start)

    def at_each(self, *widths: int) -> nn.Sequential:
        """Layers at each pixel from so many feature maps to the next, each between rectifiers."""
        layers: list[nn.Module] = [nn.ReLU()]
        for inputs, outputs in pairwise(widths):
            layers += [self.masked(inputs, outputs, 1), nn.ReLU()]
        return nn.Sequential(*layers)

    def groups_of(self, features: int) -> IntArray:
        """The group of each of so many features, `(features,)`: equal shares, one after another."""
        return np.arange(features) * self.groups // features

    def features(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Feature maps `(b, d, h, w)` of `x` (b, c, h, w) on [-1, 1]; `context` is what was read, `(b, width)`."""
        raise NotImplementedError

    def read(self, given: Given) -> Tensor | None:
        read = [vector(given[name])[:, 0] for name, vector in self.vectors.items()]
        return torch.stack(read).sum(0) if read else None

    def forward(self, image: Tensor, context: Tensor | None = None) -> Tensor:
        return self.params(self.features(self.unit(image), context), image, slice(None))

    def unit(self, image: Tensor) -> Tensor:
        """The values of the image on [-1, 1], in the precision of the weights."""
        return to_unit(image, self.head.weight.dtype)

    def params(self, features: Tensor, image: Tensor, at: slice) -> Tensor:
        """Parameters `(b, l, p)` of the positions `at`, from the feature maps of their pixels."""
        with torch.autocast(image.device.type, enabled=False):  # a mean in bfloat16 would be off by half a level
            maps = self.head(features.to(self.head.weight.dtype))
            params = maps.unflatten(1, (self.groups, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3)
            return params if self.skip is None else params + self.skip(image, at)

    @torch.no_grad()
    def closed_form_start(self, image: Tensor, given: Given) -> None:
        """Scale every convolution so that what it makes of training images has mean 0 and standard deviation 1.

        One layer after the other, as the authors of PixelCNN++ do (Salimans and Kingma, 2016); that of a residual
        branch's end is its `start`, if it has one. Then fit the skip.
        """
        layers = [one for one in self.modules() if isinstance(one, nn.Conv2d | nn.ConvTranspose2d)]
        hooks = [one.register_forward_hook(_normalise) for one in layers if one is not self.head]
        few = slice(0, START_IMAGES)
        self(image[few], self.read(select(given, few)))
        for hook in hooks:
            hook.remove()
        if self.skip is not None:
            self.skip.fit(image)


def _normalise(layer: nn.Module, inputs: Any, out: Tensor) -> Tensor:
    """A hook that scales and shifts a layer for what it makes of its first inputs; its output as it is then."""
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is not None
    mean, scale = out.mean((0, 2, 3)), getattr(layer, "start", 1.0) / (out.std((0, 2, 3)) + 1e-6)
    by_output = scale[:, None, None, None] if isinstance(layer, nn.Conv2d) else scale[:, None, None]
    layer.weight.mul_(by_output)
    layer.bias.sub_(mean).mul_(scale)
    return (out - mean[:, None, None]) * scale[:, None, None]


class MaskedConv(nn.Conv2d):
    """A convolution that sees the rows above, its own row to the left, and of its own pixel the groups up to its own.

    Of the square `kernel` (rows, columns) only that part has weights. seen, groups: the group of each input and of each
    output. (With the inputs one group later, as those of the image are, this is mask A of the PixelRNN paper, else B.)
    """

    mask: Tensor
    bias: Tensor

    def __init__(self, seen: IntArray, groups: IntArray, kernel: tuple[int, int], start: float = 1.0) -> None:
        rows, columns = (size // 2 for size in kernel)
        right = columns if rows else 0
        super().__init__(len(seen), len(groups), (rows + 1, columns + 1 + right))
        self.margins, self.start = (columns, right, rows, 0), start
        mask = np.ones((len(groups), len(seen), rows + 1, columns + 1 + right), np.float32)
        mask[:, :, rows, columns + 1 :] = 0
        mask[:, :, rows, columns] = seen[None, :] <= groups[:, None]
        self.register_buffer("mask", torch.from_numpy(mask), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(pad(x, self.margins), self.weight * self.mask, self.bias)


def exactly(layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer makes of values of the image: bfloat16 has no room for neighbouring levels."""
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = layer(x)
        return out


class Skip(nn.Module):
    """The best linear prediction of a position's means from the nearest pixels."""

    def __init__(self, layout: Layout, likelihood: Likelihood) -> None:
        super().__init__()
        self.near = Neighbours(layout)
        self.linear = LinearSkip(self.near.num_features, likelihood, layout.channels)

    def forward(self, image: Tensor, at: slice) -> Tensor:
        """What to add to the parameters `(b, l, p)` of the positions `at` of uint8 `image` (b, c, h, w)."""
        added: Tensor = self.linear(self.near(image, at, self.linear.bias.dtype), at)
        return added

    @torch.no_grad()
    def fit(self, image: Tensor) -> None:
        values = to_unit(image, torch.float64)
        self.linear.fit(self.near(image, slice(None), torch.float64), values.flatten(2).transpose(1, 2))


class RowByRow(Recomputing):
    """A decoder that reads what lies above a row once, and the row again for each of its positions.

    above: what a network makes of the rows above a row of x, from that and from what it made for an earlier row: the
    number of that row, and the parts. along: of the parts and of the row itself, its feature maps `(b, d, 1, w)`. Both
    are given x (b, c, h, w) on [-1, 1] and the number of the row.
    """

    network: RasterNetwork

    def __init__(
        self,
        network: RasterNetwork,
        context: Tensor | None,
        above: Callable[[Tensor, int, int, tuple[Tensor, ...]], tuple[Tensor, ...]],
        along: Callable[[Tensor, int, tuple[Tensor, ...]], Tensor],
    ) -> None:
        super().__init__(network, context)
        self.above, self.along = above, along
        self.row = -1
        self.parts: tuple[Tensor, ...] = ()

    def step(self, image: Tensor, at: Tensor) -> Tensor:
        network = self.network
        length = network.layout.width * network.groups  # positions in a row
        row, x = int(at[0]) // length, network.unit(image)
        if row != self.row:
            self.parts = self.above(x, row, self.row, self.parts)
            self.row = row
            self.num_bytes = sum(part.numel() * part.element_size() for part in self.parts)
        own = slice(row * length, (row + 1) * length)
        return network.params(self.along(x, row, self.parts), image, own)[:, at - own.start]
