"""What the rivals have in common: feature maps over the image, masked so that the raster order holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from image_transformer.conditions.base import Condition, Given
from image_transformer.config.rivals import Rival
from image_transformer.geometry.neighbours import neighbour_table
from image_transformer.geometry.order import IntArray, Layout
from image_transformer.likelihoods.base import Likelihood, to_unit
from image_transformer.networks.base import Network, Recomputing
from image_transformer.networks.skip import LinearSkip


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
        for condition in config.conditions:
            if type(condition) not in self.VECTORS:
                raise ValueError(f"the {config.family} family cannot be told {condition.noun} ({condition.name})")
        told = config.conditions
        self.vectors = nn.ModuleDict({one.name: self.VECTORS[type(one)](one, config.width) for one in told})
        self.head = self.masked(features, self.groups * likelihood.num_params, 1)
        self.skip = Skip(layout, likelihood) if config.linear_skip else None
        if self.skip is not None:  # training starts from the skip
            likelihood.init_head(self.head.weight.data.flatten(1))
            self.head.bias.data.zero_()

    def masked(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int], *, first: bool = False, parts: int = 1
    ) -> MaskedConv:
        """A convolution from feature maps to feature maps; `first`, from the channels of the image.

        parts: the outputs are so many equal parts, such as the gates of a layer, each divided among the groups.
        """
        seen = self.groups_of(inputs) + (1 if first else 0)  # a value is known from the next group on
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        return MaskedConv(seen, np.tile(self.groups_of(outputs // parts), parts), sides)

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

    def closed_form_start(self, image: Tensor, given: Given) -> None:
        if self.skip is not None:
            self.skip.fit(image)


class MaskedConv(nn.Conv2d):
    """A convolution that sees the rows above, its own row to the left, and of its own pixel the groups up to its own.

    seen, groups: the group of each input and of each output. (With the inputs one group later, as those of the image
    are, this is mask A of the PixelRNN paper, otherwise mask B.)
    """

    mask: Tensor
    bias: Tensor

    def __init__(self, seen: IntArray, groups: IntArray, kernel: tuple[int, int]) -> None:
        super().__init__(len(seen), len(groups), kernel, padding="same")
        rows, columns = (size // 2 for size in kernel)
        mask = np.zeros((len(groups), len(seen), *kernel), np.float32)
        mask[:, :, :rows] = 1
        mask[:, :, rows, :columns] = 1
        mask[:, :, rows, columns] = seen[None, :] <= groups[:, None]
        self.register_buffer("mask", torch.from_numpy(mask), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight * self.mask, self.bias, padding="same")


def exactly(layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer makes of values of the image: bfloat16 has no room for neighbouring levels."""
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = layer(x)
        return out


class Skip(nn.Module):
    """The best linear prediction of a position's means from the nearest pixels."""

    neighbours: Tensor
    present: Tensor

    def __init__(self, layout: Layout, likelihood: Likelihood) -> None:
        super().__init__()
        table = neighbour_table(layout)
        self.register_buffer("neighbours", torch.from_numpy(table.clip(0)), persistent=False)
        self.register_buffer("present", torch.from_numpy(table >= 0), persistent=False)
        self.linear = LinearSkip(table.shape[1], likelihood, layout.channels)

    def forward(self, image: Tensor, at: slice) -> Tensor:
        """What to add to the parameters `(b, l, p)` of the positions `at` of uint8 `image` (b, c, h, w)."""
        features = to_unit(image.flatten(1)[:, self.neighbours[at]], self.linear.bias.dtype) * self.present[at]
        added: Tensor = self.linear(features, at)
        return added

    @torch.no_grad()
    def fit(self, image: Tensor) -> None:
        values = to_unit(image, torch.float64)
        self.linear.fit(values.flatten(1)[:, self.neighbours] * self.present, values.flatten(2).transpose(1, 2))


class RowByRow(Recomputing):
    """A decoder that reads what lies above a row once, and the row again for each of its positions.

    above: what a network makes of the rows above a row of `x`; along: of that and of the row itself, its feature maps
    `(b, d, 1, w)`. Both are given x (b, c, h, w) on [-1, 1] and the number of the row.
    """

    network: RasterNetwork

    def __init__(
        self,
        network: RasterNetwork,
        context: Tensor | None,
        above: Callable[[Tensor, int], tuple[Tensor, ...]],
        along: Callable[[Tensor, int, tuple[Tensor, ...]], Tensor],
    ) -> None:
        super().__init__(network, context)
        self.above, self.along = above, along
        self.row = -1
        self.held: tuple[Tensor, ...] = ()

    def step(self, image: Tensor, at: Tensor) -> Tensor:
        network = self.network
        length = network.layout.width * network.groups  # positions in a row
        row, x = int(at[0]) // length, network.unit(image)
        if row != self.row:
            self.row, self.held = row, self.above(x, row)
            self.num_bytes = sum(part.numel() * part.element_size() for part in self.held)
        own = slice(row * length, (row + 1) * length)
        return network.params(self.along(x, row, self.held), image, own)[:, at - own.start]
