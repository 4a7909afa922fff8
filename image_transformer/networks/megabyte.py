"""MEGABYTE: a transformer over patches, and a small one over the pixels of each."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from image_transformer.config.rivals import Megabyte as Config
from image_transformer.geometry.order import Layout
from image_transformer.likelihoods.base import Likelihood
from image_transformer.networks.raster import RasterNetwork, exactly


class Megabyte(RasterNetwork):
    """Two levels of causal transformers (Yu et al., 2023, *MEGABYTE: predicting million-byte sequences*, section 2).

    A patch is `patch` pixels that follow each other in raster order. The global model reads the patches, of each the
    embeddings of its pixels side by side, and is one patch behind. What it says of a patch is cut into a part for each
    pixel, to which the local model adds the pixel before it in the patch. Pixels take the place of the paper's bytes.
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
        patches = x.flatten(2).transpose(1, 2).unflatten(1, (-1, self.patch))  # (b, n, p, c)
        read = exactly(self.embed, patches).flatten(2)
        states = self.above(_behind(read, self.before_all) + self.places)
        told = self.told(states.unflatten(2, (self.patch, -1))).flatten(0, 1)  # (b n, p, d)
        out: Tensor = self.within(_behind(exactly(self.embed_own, patches).flatten(0, 1), self.before_own) + told)
        return out.view(len(x), -1, out.shape[-1]).transpose(1, 2).unflatten(2, x.shape[2:])


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
