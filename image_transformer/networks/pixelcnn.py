"""PixelCNN and Gated PixelCNN: masked convolutions, in one stack and in two."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import pad, relu

from image_transformer.conditions.base import Condition
from image_transformer.conditions.label import Label
from image_transformer.config.rivals import GatedPixelCNN as GatedConfig
from image_transformer.config.rivals import PixelCNN as Config
from image_transformer.geometry.order import Layout
from image_transformer.geometry.schedule import Schedule
from image_transformer.likelihoods.base import Likelihood
from image_transformer.networks.raster import RasterNetwork, RowByRow, exactly
from image_transformer.networks.transformer import Vector

FIRST = 7  # side of the first layer's squares


class PixelCNN(RasterNetwork):
    """One stack of masked convolutions (van den Oord et al., 2016, *Pixel recurrent neural networks*, 3.3 and table 1).

    Its masks leave a blind spot: what lies to the right of a line that rises by a row for each pixel, from the stem's
    reach on, is never seen at any depth.
    """

    def __init__(self, config: Config, layout: Layout, likelihood: Likelihood) -> None:
        super().__init__(config, layout, likelihood, config.head_width)
        width = 2 * config.width
        self.stem = self.masked(layout.channels, width, FIRST, first=True)
        self.blocks = nn.ModuleList(Residual(self, config) for _ in range(config.depth))
        self.before_head = self.at_each(width, config.head_width, config.head_width)
        self.reach = FIRST // 2 + config.depth * (config.kernel // 2)  # rows above that a pixel sees

    def features(self, x: Tensor, context: Tensor | None) -> Tensor:
        x = exactly(self.stem, x)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.before_head(x)
        return out

    def decoder(self, context: Any, batch: int, schedule: Schedule, *, prefilled: bool = False) -> RowByRow:
        def along(x: Tensor, row: int, parts: tuple[Tensor, ...]) -> Tensor:
            return self.features(x[:, :, max(0, row - self.reach) : row + 1], context)[:, :, -1:]

        return RowByRow(self, context, lambda *above: (), along)


class Residual(nn.Module):
    """2 h maps -> h -> h by the masked square -> 2 h, added (3.3, figure 5 on the left)."""

    def __init__(self, network: RasterNetwork, config: Config) -> None:
        super().__init__()
        h = config.width
        self.narrow = network.masked(2 * h, h, 1)
        self.square = network.masked(h, h, config.kernel)
        self.wide = network.masked(h, 2 * h, 1, start=config.depth**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.wide(relu(self.square(relu(self.narrow(relu(x))))))


class GatedPixelCNN(RasterNetwork):
    """Two stacks of gated convolutions (van den Oord et al., 2016, *Conditional image generation with PixelCNN
    decoders*, 2.2, 2.3 and figure 2): a vertical one that sees all rows above, and a horizontal one that is fed by it.
    """

    VECTORS: ClassVar[dict[type[Condition], Any]] = {Label: Vector}

    blocks: Any

    def __init__(self, config: GatedConfig, layout: Layout, likelihood: Likelihood) -> None:
        super().__init__(config, layout, likelihood, config.head_width)
        channels, width = layout.channels, config.width
        kernels = [FIRST, *[config.kernel] * (config.depth - 1)]
        self.blocks = nn.ModuleList(
            Gated(self, width if i else channels, kernel, first=i == 0) for i, kernel in enumerate(kernels)
        )
        self.before_head = self.at_each(width, config.head_width)
        self.reach = FIRST // 2 + (config.depth - 1) * (config.kernel // 2) + 1  # rows above that a pixel sees

    def features(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.along(x, self.above(x, context), context)

    def above(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        """What the vertical stack says to each layer of the horizontal one, `(b, 2 d, h, w)`, of the rows above."""
        said = []
        for block in self.blocks:
            x, to_horizontal = block.vertically(x, context)
            said.append(to_horizontal)
        return tuple(said)

    def along(self, x: Tensor, above: tuple[Tensor, ...], context: Tensor | None) -> Tensor:
        """Feature maps of the rows `x`."""
        for block, said in zip(self.blocks, above, strict=True):
            x = block.horizontally(x, said, context)
        out: Tensor = self.before_head(x)
        return out

    def decoder(self, context: Any, batch: int, schedule: Schedule, *, prefilled: bool = False) -> RowByRow:
        def above(x: Tensor, row: int, last: int, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            seen = x[:, :, max(0, row - self.reach) : row + 1]
            return tuple(part[:, :, -1:] for part in self.above(seen, context))

        def along(x: Tensor, row: int, parts: tuple[Tensor, ...]) -> Tensor:
            return self.along(x[:, :, row : row + 1], parts, context)

        return RowByRow(self, context, above, along)


class Gated(nn.Module):
    """A layer of both stacks: tanh of one half of the maps times the sigmoid of the other (2.1)."""

    def __init__(self, network: RasterNetwork, inputs: int, kernel: int, first: bool) -> None:
        super().__init__()
        width = network.config.width
        self.reach, self.first = kernel // 2, first
        self.vertical = nn.Conv2d(inputs, 2 * width, (self.reach + 1, kernel))
        self.to_horizontal = nn.Conv2d(2 * width, 2 * width, 1)
        self.horizontal = network.masked(inputs, 2 * width, (1, kernel), first=first, parts=2)
        self.residual = network.masked(width, width, 1, start=1.0 if first else network.config.depth**-0.5)
        stacks = 2 if len(network.vectors) else 0
        self.by_class = nn.ModuleList(nn.Linear(width, 2 * width, bias=False) for _ in range(stacks))

    def vertically(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The maps of the vertical stack, and what each row tells the horizontal one: of the rows above it alone."""
        padded = pad(x, (self.reach, self.reach, self.reach, 0))  # a row sees itself, in its own stack
        maps = exactly(self.vertical, padded) if self.first else self.vertical(padded)
        below = pad(maps, (0, 0, 1, 0))[:, :, :-1]
        return gate(self._with(maps, context, 0)), self.to_horizontal(below)

    def horizontally(self, x: Tensor, above: Tensor, context: Tensor | None) -> Tensor:
        maps = exactly(self.horizontal, x) if self.first else self.horizontal(x)
        out = self.residual(gate(self._with(maps + above, context, 1)))
        return out if self.first else x + out

    def _with(self, maps: Tensor, context: Tensor | None, stack: int) -> Tensor:
        return maps if context is None else maps + self.by_class[stack](context)[:, :, None, None]


def gate(maps: Tensor) -> Tensor:
    tanh, sigmoid = maps.chunk(2, 1)
    return tanh.tanh() * sigmoid.sigmoid()
