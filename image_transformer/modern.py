"""The modern network: inputs from generated neighbours, pre-norm blocks, rotary positions, gated feed-forward layers.

Its head starts at zero on top of a linear skip from the neighbours to the means, so that training starts from the
best linear predictor of the data (`closed_form_start`) instead of from noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu

from image_transformer.attention import Attend
from image_transformer.config import ModelConfig
from image_transformer.likelihood import Categorical, ChainedCategorical, DiscretizedLogisticMixture, Likelihood
from image_transformer.order import IntArray, Layout, Order, layout

PixelLikelihood = DiscretizedLogisticMixture | ChainedCategorical

NUM_NEIGHBOURS = 17  # pixels whose values are inputs
FIT_PIXELS = 20_000  # enough for the scales, whose fit needs more memory than the regression
RIDGE = 1e-4  # relative to the variance of values on [-1, 1]


class ModernTransformer(nn.Module):
    """Image -> distribution parameters of each position, given all earlier ones.

    inputs: the positions whose values enter each slot, `(l, n)`, -1 for none.
    """

    neighbours: Tensor
    present: Tensor
    row: Tensor
    column: Tensor
    channel: Tensor

    def __init__(self, config: ModelConfig, layout: Layout, likelihood: Likelihood) -> None:
        super().__init__()
        width, p = config.width, layout.positions
        neighbours = neighbour_table(layout)
        self.inputs = np.where(neighbours >= 0, layout.position_of[neighbours], -1)
        places = {"row": p.row, "column": p.col, "channel": p.channel, "neighbours": neighbours.clip(0)}
        for name, place in places.items():
            self.register_buffer(name, torch.from_numpy(place), persistent=False)
        self.register_buffer("present", torch.from_numpy(neighbours >= 0), persistent=False)
        self.stem = nn.Linear(neighbours.shape[1], width)
        self.rows = nn.Embedding(layout.height, width)
        self.columns = nn.Embedding(layout.width, width)
        self.channels = nn.Embedding(int(p.channel.max()) + 1, width)
        for table in (self.rows, self.columns, self.channels):
            nn.init.normal_(table.weight, std=0.02)
        self.dropout = nn.Dropout(config.dropout)
        self.rotary = Rotary2D(layout, config.head_width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = nn.Linear(width, likelihood.num_params(layout.channels), bias=False)
        likelihood.init_head(self.head.weight)
        pixels = None if isinstance(likelihood, Categorical) else likelihood
        self.skip = None if pixels is None else LinearSkip(neighbours.shape[1], pixels, layout.channels)

    def features(self, image: Tensor, at: Tensor | slice) -> Tensor:
        """Values on [-1, 1] of the generated neighbours of positions `at`, `(b, l, f)`; 0 where there are none."""
        values = image.flatten(1)[:, self.neighbours[at]].to(self.head.weight.dtype)
        return (values / 127.5 - 1) * self.present[at]

    def forward(self, image: Tensor, at: Tensor | slice, attends: Sequence[Attend]) -> Tensor:
        """Parameters `(b, l, p)` of positions `at`, from the values of `image` (b, c, h, w) generated before each."""
        features = self.features(image, at)
        place = self.rows(self.row[at]) + self.columns(self.column[at]) + self.channels(self.channel[at])
        with torch.autocast(image.device.type, enabled=False):  # bfloat16 has no room for neighbouring levels
            x = self.dropout(self.stem(features) + place)
        rotate = self.rotary(at)
        for block, attend in zip(self.blocks, attends, strict=True):
            x = block(x, rotate, attend)
        with torch.autocast(x.device.type, enabled=False):  # a mean in bfloat16 would be off by half a level
            params = self.head(_norm(x.to(features.dtype)))
            return params if self.skip is None else params + self.skip(features)

    @torch.no_grad()
    def closed_form_start(self, image: Tensor) -> None:
        """Fit what needs no gradient to uint8 `image` (b, c, h, w): the skip, and a stem that whitens its inputs.

        Whitening makes the small differences between neighbours as loud as their mean, which they all share.
        """
        features = self.features(image, slice(None)).flatten(0, 1).double()
        mean = features.mean(0)
        variance, axes = torch.linalg.eigh((features - mean).T @ (features - mean) / len(features))
        whiten = axes / (variance + 1e-5).sqrt()  # (f, f)
        mix = torch.randn(self.stem.weight.shape, dtype=torch.float64) / math.sqrt(len(mean))
        self.stem.weight.copy_(mix @ whiten.T)
        self.stem.bias.copy_(-self.stem.weight.double() @ mean)
        if self.skip is not None:
            values = image.flatten(2)[:, :, self.row * image.shape[3] + self.column]  # (b, c, l)
            self.skip.fit(features, values.transpose(1, 2).flatten(0, 1).double() / 127.5 - 1)


@lru_cache
def nearest_generated(order: Order) -> tuple[tuple[int, int], ...]:
    """The `NUM_NEIGHBOURS` nearest pixels, (rows down, columns right), that most pixels find generated before them.

    A function of the order alone, seen on a 32 x 32 image, so that weights do not depend on the size of the images.
    """
    lay = layout(order, (1, 32, 32), sub_pixels=False)
    p, found = lay.positions, []
    for down, right in product(range(-6, 7), repeat=2):
        row, col = p.row + down, p.col + right
        inside = (row >= 0) & (row < lay.height) & (col >= 0) & (col < lay.width)
        earlier = p.front[lay.at[row[inside], col[inside], 0]] < p.front[inside]
        if earlier.mean() > 0.5:
            found.append((math.hypot(down, right), down, right))
    return tuple((down, right) for _, down, right in sorted(found)[:NUM_NEIGHBOURS])


def neighbour_table(layout: Layout) -> IntArray:
    """Flat places in the image of the values that are inputs of each position, `(l, neighbours * channels)`.

    A neighbour outside the image or not generated yet is replaced by the present one nearest to it, as if the
    image's edge went on; -1 where none is present. Sub-pixel positions also see the earlier channels of their pixel.
    """
    p = layout.positions
    offsets = (*nearest_generated(layout.order), *([(0, 0)] if layout.sub_pixels else []))
    table = np.full((len(offsets), layout.channels, layout.num_positions), -1)
    for o, (down, right) in enumerate(offsets):
        row, col = p.row + down, p.col + right
        inside = (row >= 0) & (row < layout.height) & (col >= 0) & (col < layout.width)
        row, col = np.where(inside, row, 0), np.where(inside, col, 0)
        for channel in range(layout.channels):
            where = layout.at[row, col, channel if layout.sub_pixels else 0]
            present = inside & (p.front[where] < p.front)
            table[o, channel] = np.where(present, (channel * layout.height + row) * layout.width + col, -1)
    original = table.copy()
    for o, (down, right) in enumerate(offsets):
        by_distance = sorted(range(len(offsets)), key=lambda i: math.hypot(offsets[i][0] - down, offsets[i][1] - right))
        for other in by_distance:
            table[o] = np.where(table[o] >= 0, table[o], original[other])
    return table.reshape(-1, layout.num_positions).T.copy()


class LinearSkip(nn.Module):
    """From the neighbours straight to a likelihood's means; biases for its other parameters."""

    def __init__(self, num_features: int, likelihood: PixelLikelihood, channels: int) -> None:
        super().__init__()
        self.mean_params = likelihood.mean_params
        self.start = likelihood.start
        self.means = nn.Linear(num_features, channels)
        nn.init.zeros_(self.means.weight)
        nn.init.zeros_(self.means.bias)
        self.bias = nn.Parameter(torch.zeros(likelihood.num_params(channels)))

    def forward(self, features: Tensor) -> Tensor:
        return self.bias + self.mean_params(self.means(features))

    def fit(self, features: Tensor, x: Tensor) -> None:
        """Ridge regression of `x` (n, c) on `features` (n, f) and the channels before; the rest from what it misses."""
        channels = x.shape[1]
        inputs = torch.cat([features, torch.ones_like(x[:, :1])], 1)
        gram = inputs.T @ inputs + RIDGE * len(x) * torch.eye(inputs.shape[1], dtype=x.dtype)
        predict = torch.linalg.solve(gram, inputs.T @ x)  # (f + 1, c): each channel from the neighbours alone
        residual = x - inputs @ predict
        coupling = torch.zeros(channels, channels, dtype=x.dtype)
        for i in range(1, channels):
            # what the residuals of the channels before say of this one's: the same regression, in two steps
            coupling[i, :i] = torch.linalg.lstsq(residual[:, :i], residual[:, i]).solution.clamp(-0.99, 0.99)
        weights = predict - predict @ coupling.T
        self.means.weight.copy_(weights[:-1].T)
        self.means.bias.copy_(weights[-1])
        self.bias.copy_(self.start(inputs[:FIT_PIXELS] @ weights, x[:FIT_PIXELS], coupling))


class Rotary2D(nn.Module):
    """Rotations of queries and keys by their place: half of the head width turns with the row, half with the column."""

    cos: Tensor
    sin: Tensor

    def __init__(self, layout: Layout, head_width: int) -> None:
        super().__init__()
        pairs = head_width // 4
        rates = 100.0 ** -(np.arange(pairs) / pairs)  # radians per pixel: wavelengths from 6 to 600 pixels
        p = layout.positions
        angles = np.concatenate([p.row[:, None] * rates, p.col[:, None] * rates], axis=1)
        self.register_buffer("cos", torch.from_numpy(np.cos(angles)).float(), persistent=False)
        self.register_buffer("sin", torch.from_numpy(np.sin(angles)).float(), persistent=False)

    def forward(self, at: Tensor | slice) -> tuple[Tensor, Tensor]:
        return self.cos[at], self.sin[at]


def _rotate(x: Tensor, rotate: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = (r.to(x.dtype) for r in rotate)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


def _norm(x: Tensor) -> Tensor:
    return rms_norm(x, x.shape[-1:])


class Block(nn.Module):
    """Self-attention and gated feed-forward on normalised inputs; both start at zero (Zhang et al., 2019: fixup)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.gate_up = nn.Linear(config.width, 2 * config.feed_forward, bias=False)
        self.down = nn.Linear(config.feed_forward, config.width, bias=False)
        nn.init.zeros_(self.down.weight)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, rotate: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        x = x + self.dropout(self.attention(_norm(x), rotate, attend))
        gate, up = self.gate_up(_norm(x)).chunk(2, -1)
        return x + self.dropout(self.down(silu(gate) * up))


class SelfAttention(nn.Module):
    """Multi-head attention with normalised, rotated queries and keys; `attend` decides who sees whom."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        total = config.heads * config.head_width
        self.heads, self.kv_heads = config.heads, config.kv_heads or config.heads
        self.query_key_value = nn.Linear(config.width, total + 2 * self.kv_heads * config.head_width, bias=False)
        self.gain = nn.Parameter(torch.ones(config.heads, 1, 1))
        self.output = nn.Linear(total, config.width, bias=False)
        nn.init.zeros_(self.output.weight)

    def forward(self, x: Tensor, rotate: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        qkv = self.query_key_value(x).unflatten(-1, (self.heads + 2 * self.kv_heads, -1)).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], 1)  # (b, a, l, e)
        q = _rotate(_norm(q), rotate) * self.gain.to(q.dtype)
        k = _rotate(_norm(k), rotate)
        return self.output(attend(q, k, v).transpose(1, 2).flatten(2))
