"""MEGABYTE: a transformer over patches, and a small one over the pixels of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from image_transformer.config.rivals import Megabyte as Config
from image_transformer.geometry.order import Layout
from image_transformer.geometry.schedule import Schedule
from image_transformer.likelihoods.base import Likelihood
from image_transformer.networks.base import Recomputing
from image_transformer.networks.raster import RasterNetwork, exactly


class Megabyte(RasterNetwork):
    """Two levels of causal transformers (Yu et al., 2023, *MEGABYTE: predicting million-byte sequences*, section 2).

    A patch is `patch` pixels that follow each other in raster order. The global model reads the patches, of each the
    embeddings of its pixels side by side, and is one patch behind. What it says of a patch is cut into a part for each
    pixel, to which the local model adds the pixel before it in the patch. Pixels take the place of the paper's bytes,
    and patches lie in rows, where the paper cuts images into square ones, so that the order is that of all rivals.
    """

    def __init__(self, config: Config, layout: Layout, likelihood: Likelihood) -> None:
        super().__init__(config, layout, likelihood, config.local_width)
        self.patch, channels = config.patch, layout.channels
        self.embed = nn.Linear(channels, config.width // config.patch)
        self.places = nn.Parameter(0.02 * torch.randn(layout.num_positions // config.patch, config.width))
        self.before_all = nn.Parameter(0.02 * torch.randn(config.width))
        self.above = Causal(config.width, config.depth, config.heads)
        self.told = nn.Linear(config.width // config.patch, config.local_width)
        self.embed_own = nn.Linear(channels, config.local_width)
        self.before_own = nn.Parameter(0.02 * torch.randn(config.local_width))
        self.within = Causal(config.local_width, config.local_depth, config.heads)

    def features(self, x: Tensor, context: Tensor | None) -> Tensor:
        patches = self.patches(x)
        return self.along(patches, self.tell(patches)).unflatten(2, x.shape[2:])

    def patches(self, x: Tensor) -> Tensor:
        """The pixels of each patch of `x` (b, c, h, w), `(b, n, p, c)`."""
        return x.flatten(2).transpose(1, 2).unflatten(1, (-1, self.patch))

    def tell(self, patches: Tensor) -> Tensor:
        """What the global model says to the pixels of n `patches`, `(b, n, p, d)`, from the patches before each."""
        read = exactly(self.embed, patches).flatten(2)
        states = self.above(_behind(read, self.before_all) + self.places[: read.shape[1]])
        told: Tensor = self.told(states.unflatten(2, (self.patch, -1)))
        return told

    def along(self, patches: Tensor, told: Tensor) -> Tensor:
        """Feature maps `(b, d, n p)` of the pixels of some patches, from the pixels before in the patch."""
        own = _behind(exactly(self.embed_own, patches).flatten(0, 1), self.before_own)
        out: Tensor = self.within(own + told.flatten(0, 1))
        return out.view(len(patches), -1, out.shape[-1]).transpose(1, 2)

    def decoder(self, context: Any, batch: int, schedule: Schedule, *, prefilled: bool = False) -> PatchByPatch:
        return PatchByPatch(self, context)


class PatchByPatch(Recomputing):
    """A decoder that runs the global model once for a patch, on the patches so far, and the local one on that patch."""

    network: Megabyte
    told: Tensor

    def __init__(self, network: Megabyte, context: Any) -> None:
        super().__init__(network, context)
        self.number = -1  # of the patch that `told` is for

    def step(self, image: Tensor, at: Tensor) -> Tensor:
        network, number = self.network, int(at[0]) // self.network.patch
        patches = network.patches(network.unit(image))
        if number != self.number:
            self.told, self.number = network.tell(patches[:, : number + 1])[:, -1:], number
            self.num_bytes = self.told.numel() * self.told.element_size()
        maps = network.along(patches[:, number : number + 1], self.told)[:, :, None]
        own = slice(number * network.patch, (number + 1) * network.patch)
        return network.params(maps, image, own)[:, at - own.start]


def _behind(x: Tensor, start: Tensor) -> Tensor:
    """Each of `x` (b, l, d) in the place of the next one, the first of them `start` (d,)."""
    return torch.cat([start.expand(len(x), 1, -1), x[:, :-1]], 1)


class Causal(nn.Module):
    """A stack of blocks, and a norm after it."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.blocks(x))
        return out


class Block(nn.Module):
    """Causal attention and a feed-forward layer of four times the width, each on what is normalised."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_wide = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.query_key_value(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.output(attended.transpose(1, 2).flatten(2))
        return x + self.narrow(gelu(self.wide(self.norm_wide(x))))
