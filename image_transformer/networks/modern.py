"""The modern network: inputs from generated neighbours, pre-norm blocks, rotary positions, gated feed-forward layers.

Its head starts at zero on top of a linear skip from the neighbours to the means, so that training starts from the
best linear predictor of the data (`closed_form_start`) instead of from noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu

from image_transformer.config.model import ModelConfig
from image_transformer.geometry.boxes import place_of_box, places_in_boxes
from image_transformer.geometry.order import IntArray, Layout, Order, layout
from image_transformer.likelihoods.dmol import Categorical, ChainedCategorical, DiscretizedLogisticMixture, Likelihood
from image_transformer.networks.attention import Attend, full_attention
from image_transformer.networks.base import NO_CONTEXT, Context

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
        num_features = neighbours.shape[1]
        self.low = LowFeatures(layout, config.factor) if config.factor else None
        if self.low is not None:
            self.inputs = np.concatenate([self.inputs, self.low.inputs], 1)
            num_features += self.low.num_features
        self.stem = nn.Linear(num_features, width)
        self.rows = nn.Embedding(layout.height, width)
        self.columns = nn.Embedding(layout.width, width)
        self.channels = nn.Embedding(int(p.channel.max()) + 1, width)
        tables = [self.rows, self.columns, self.channels]
        self.labels = nn.Embedding(len(config.classes), width) if config.classes else None
        for table in tables if self.labels is None else [*tables, self.labels]:
            nn.init.normal_(table.weight, std=0.02)
        self.dropout = nn.Dropout(config.dropout)
        self.rotary = Rotary2D(p.row, p.col, config.head_width)
        self.encoder = Encoder(config) if config.factor else None
        self.blocks = nn.ModuleList(Block(config, cross=config.factor is not None) for _ in range(config.depth))
        self.head = nn.Linear(width, likelihood.num_params(layout.channels), bias=False)
        likelihood.init_head(self.head.weight)
        pixels = None if isinstance(likelihood, Categorical) else likelihood
        phase = None if self.low is None else self.low.phase
        self.skip = None if pixels is None else LinearSkip(num_features, pixels, layout.channels, phase)

    def features(self, image: Tensor, at: Tensor | slice, context: Context = NO_CONTEXT) -> Tensor:
        """Values on [-1, 1] of the generated neighbours of positions `at`, `(b, l, f)`; 0 where there are none.

        For super-resolution, after them what the low-resolution image says.
        """
        values = image.flatten(1)[:, self.neighbours[at]].to(self.head.weight.dtype)
        neighbours = (values / 127.5 - 1) * self.present[at]
        if self.low is None:
            return neighbours
        assert context.low is not None
        return torch.cat([neighbours, self.low(image, context.low, at).to(neighbours.dtype)], -1)

    def read(self, label: Tensor | None, low: Tensor | None) -> Context:
        """The conditions as the layers need them: classes `(b,)` int64, low-resolution images `(b, c, h/f, w/f)`."""
        added = None if self.labels is None or label is None else self.labels(label)[:, None]
        if self.encoder is None or low is None:
            return Context(added)
        encoded, rotate = self.encoder(low), self.encoder.rotary(slice(None))
        crosses = [cast(CrossAttention, block.cross) for block in self.blocks]
        return Context(added, low, tuple(cross.keys_and_values(encoded, rotate) for cross in crosses))

    def forward(
        self, image: Tensor, at: Tensor | slice, attends: Sequence[Attend], context: Context = NO_CONTEXT
    ) -> Tensor:
        """Parameters `(b, l, p)` of positions `at`, from the values of `image` (b, c, h, w) generated before each."""
        features = self.features(image, at, context)
        place = self.rows(self.row[at]) + self.columns(self.column[at]) + self.channels(self.channel[at])
        if context.label is not None:
            place = place + context.label
        with torch.autocast(image.device.type, enabled=False):  # bfloat16 has no room for neighbouring levels
            x = self.dropout(self.stem(features) + place)
        rotate = self.rotary(at)
        for layer, (block, attend) in enumerate(zip(self.blocks, attends, strict=True)):
            x = block(x, rotate, attend, context.memory[layer] if context.memory else None)
        with torch.autocast(x.device.type, enabled=False):  # a mean in bfloat16 would be off by half a level
            params = self.head(_norm(x.to(features.dtype)))
            return params if self.skip is None else params + self.skip(features, at)

    @torch.no_grad()
    def closed_form_start(self, image: Tensor, low: Tensor | None = None) -> None:
        """Fit what needs no gradient to uint8 `image` (b, c, h, w): the skip, and a stem that whitens its inputs.

        Whitening makes the small differences between neighbours as loud as their mean, which they all share.
        """
        by_position = self.features(image, slice(None), Context(low=low)).double()
        features = by_position.flatten(0, 1)
        mean = features.mean(0)
        variance, axes = torch.linalg.eigh((features - mean).T @ (features - mean) / len(features))
        whiten = axes / (variance + 1e-5).sqrt()  # (f, f)
        mix = torch.randn(self.stem.weight.shape, dtype=torch.float64) / math.sqrt(len(mean))
        self.stem.weight.copy_(mix @ whiten.T)
        self.stem.bias.copy_(-self.stem.weight.double() @ mean)
        if self.skip is not None:
            values = image.flatten(2)[:, :, self.row * image.shape[3] + self.column]  # (b, c, l)
            self.skip.fit(by_position, values.transpose(1, 2).double() / 127.5 - 1)


class LowFeatures(nn.Module):
    """What the low-resolution image says of a position, on [-1, 1]: the pixels of it around, and what is left.

    First the 3 x 3 low-resolution pixels around the position's box, beyond the edges the nearest ones; then, for each
    channel, the mean of the values of the box that are not generated yet, which follows from those that are.
    phase: the place of each position in its box, `(l,)`, 0 to factor^2 - 1.
    """

    around: Tensor
    mates: Tensor
    generated: Tensor

    def __init__(self, layout: Layout, factor: int) -> None:
        super().__init__()
        p, channels = layout.positions, np.arange(layout.channels)
        low_height, low_width = layout.height // factor, layout.width // factor
        self.num_features = 10 * layout.channels
        self.values_per_box = factor**2
        self.phase = torch.from_numpy((p.row % factor) * factor + p.col % factor)
        down, right = (x.reshape(-1) for x in np.indices((3, 3)) - 1)
        row = (p.row[:, None] // factor + down).clip(0, low_height - 1)
        col = (p.col[:, None] // factor + right).clip(0, low_width - 1)
        around = (channels[:, None] * low_height + row[:, None]) * low_width + col[:, None]  # (l, c, 9)
        self.register_buffer("around", torch.from_numpy(around), persistent=False)
        own = place_of_box(layout, factor)[(channels * layout.height + p.row[:, None]) * layout.width + p.col[:, None]]
        mates = places_in_boxes(layout, factor)[own]  # (l, c, n)
        generated = p.front[layout.position_of[mates]] < p.front[:, None, None]
        self.register_buffer("mates", torch.from_numpy(mates), persistent=False)
        self.register_buffer("generated", torch.from_numpy(generated), persistent=False)
        self.inputs = np.where(generated, layout.position_of[mates], -1).reshape(len(p), -1)

    def forward(self, image: Tensor, low: Tensor, at: Tensor | slice) -> Tensor:
        """`(b, l, 10 c)` for the positions `at`, of `image` (b, c, h, w) and `low` (b, c, h / f, w / f)."""
        around = low.flatten(1)[:, self.around[at]].float()  # (b, l, c, 9)
        generated = self.generated[at]
        total = (image.flatten(1)[:, self.mates[at]] * generated).sum(-1, dtype=torch.int32)  # (b, l, c)
        left = (self.values_per_box - generated.sum(-1)).clamp(min=1)  # sub-pixel positions have channels that are done
        rest = ((self.values_per_box * around[..., 4] - total) / left).clamp(0, 255)
        return torch.cat([around.flatten(2), rest], -1) / 127.5 - 1


class Encoder(nn.Module):
    """Reads the low-resolution image: every pixel sees every other. Its places are those of the boxes' centres."""

    row: Tensor
    column: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.factor is not None and config.low_shape is not None
        channels, height, width = config.low_shape
        row, col = (x.reshape(-1) for x in np.indices((height, width)))
        self.register_buffer("row", torch.from_numpy(row), persistent=False)
        self.register_buffer("column", torch.from_numpy(col), persistent=False)
        self.stem = nn.Linear(channels, config.width)
        self.rows, self.columns = nn.Embedding(height, config.width), nn.Embedding(width, config.width)
        for table in (self.rows, self.columns):
            nn.init.normal_(table.weight, std=0.02)
        centre = (config.factor - 1) / 2
        self.rotary = Rotary2D(config.factor * row + centre, config.factor * col + centre, config.head_width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.encoder_depth))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, low: Tensor) -> Tensor:
        """States `(b, m, d)` of the pixels of uint8 `low` (b, c, h / f, w / f), row by row."""
        pixels = low.flatten(2).transpose(1, 2).to(self.stem.weight.dtype) / 127.5 - 1
        with torch.autocast(low.device.type, enabled=False):
            x = self.dropout(self.stem(pixels) + self.rows(self.row) + self.columns(self.column))
        rotate = self.rotary(slice(None))
        for block in self.blocks:
            x = block(x, rotate, _all_heads)
        return _norm(x)


def _all_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    return full_attention(q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1))


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
    """From the features straight to a likelihood's means; biases for its other parameters.

    phase: which of several such maps each position has, `(l,)`; one for all if not given.
    """

    phase: Tensor

    def __init__(
        self, num_features: int, likelihood: PixelLikelihood, channels: int, phase: Tensor | None = None
    ) -> None:
        super().__init__()
        self.mean_params = likelihood.mean_params
        self.start = likelihood.start
        self.phases = 1 if phase is None else int(phase.max()) + 1
        self.register_buffer("phase", phase, persistent=False)
        self.means = nn.Linear(num_features, self.phases * channels)
        nn.init.zeros_(self.means.weight)
        nn.init.zeros_(self.means.bias)
        self.bias = nn.Parameter(torch.zeros(self.phases * likelihood.num_params(channels)))

    def forward(self, features: Tensor, at: Tensor | slice) -> Tensor:
        """Parameters `(b, l, p)` from the `features` `(b, l, f)` of positions `at`."""
        means, bias = self.means(features), self.bias
        if self.phases > 1:
            phase = self.phase[at]
            bias = bias.unflatten(0, (self.phases, -1))[phase]
            means = means.unflatten(-1, (self.phases, -1))  # (b, l, phases, c)
            means = means.gather(2, phase[:, None, None].expand(*means.shape[:2], 1, means.shape[-1]))[:, :, 0]
        return bias + self.mean_params(means)

    def fit(self, features: Tensor, x: Tensor) -> None:
        """Ridge regression of `x` `(b, l, c)` on `features` `(b, l, f)` and the channels before; then the rest."""
        of_phase = [self.phase == i for i in range(self.phases)] if self.phases > 1 else [slice(None)]
        parts = [(features[:, own].flatten(0, 1), x[:, own].flatten(0, 1)) for own in of_phase]
        parts = [(torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1), target) for inputs, target in parts]
        predictors = [_ridge(inputs, target) for inputs, target in parts]
        residual = torch.cat([target - inputs @ w for (inputs, target), w in zip(parts, predictors, strict=True)])
        coupling = torch.zeros(x.shape[-1], x.shape[-1], dtype=x.dtype)
        for i in range(1, len(coupling)):
            # what the residuals of the channels before say of this one's: the same regression, in two steps
            coupling[i, :i] = torch.linalg.lstsq(residual[:, :i], residual[:, i]).solution.clamp(-0.99, 0.99)
        weights = [predict - predict @ coupling.T for predict in predictors]
        self.means.weight.copy_(torch.cat([w[:-1].T for w in weights]))
        self.means.bias.copy_(torch.cat([w[-1] for w in weights]))
        few = FIT_PIXELS // self.phases
        starts = [
            self.start(inputs[:few] @ w, target[:few], coupling)
            for (inputs, target), w in zip(parts, weights, strict=True)
        ]
        self.bias.copy_(torch.cat(starts))


def _ridge(inputs: Tensor, target: Tensor) -> Tensor:
    """The weights `(f, c)` that predict `target` `(n, c)` from `inputs` `(n, f)`, shrunk a little."""
    penalty = RIDGE * len(inputs) * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    return torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ target)


class Rotary2D(nn.Module):
    """Rotations of queries and keys by their place: half of the head width turns with the row, half with the column."""

    cos: Tensor
    sin: Tensor

    def __init__(self, row: NDArray[Any], col: NDArray[Any], head_width: int) -> None:
        super().__init__()
        pairs = head_width // 4
        rates = 100.0 ** -(np.arange(pairs) / pairs)  # radians per pixel: wavelengths from 6 to 600 pixels
        angles = np.concatenate([row[:, None] * rates, col[:, None] * rates], axis=1)
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
    """Self-attention and gated feed-forward on normalised inputs; both start at zero (Zhang et al., 2019: fixup).

    With `cross`, attention to what an encoder has read comes between them.
    """

    def __init__(self, config: ModelConfig, cross: bool = False) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.cross = CrossAttention(config) if cross else None
        self.gate_up = nn.Linear(config.width, 2 * config.feed_forward, bias=False)
        self.down = nn.Linear(config.feed_forward, config.width, bias=False)
        nn.init.zeros_(self.down.weight)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, rotate: tuple[Tensor, Tensor], attend: Attend, memory: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        x = x + self.dropout(self.attention(_norm(x), rotate, attend))
        if self.cross is not None and memory is not None:
            x = x + self.dropout(self.cross(_norm(x), rotate, memory))
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


class CrossAttention(nn.Module):
    """Multi-head attention to the encoder's states, with normalised queries and keys that know where they are."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        total = config.heads * config.head_width
        self.heads = config.heads
        self.query = nn.Linear(config.width, total, bias=False)
        self.key_value = nn.Linear(config.width, 2 * total, bias=False)
        self.gain = nn.Parameter(torch.ones(config.heads, 1, 1))
        self.output = nn.Linear(total, config.width, bias=False)
        nn.init.zeros_(self.output.weight)

    def keys_and_values(self, encoded: Tensor, rotate: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """`(b, a, m, e)` each, of the states `(b, m, d)`."""
        k, v = self.key_value(encoded).unflatten(-1, (2 * self.heads, -1)).transpose(1, 2).chunk(2, 1)
        return _rotate(_norm(k), rotate), v

    def forward(self, x: Tensor, rotate: tuple[Tensor, Tensor], memory: tuple[Tensor, Tensor]) -> Tensor:
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q = _rotate(_norm(q), rotate) * self.gain.to(q.dtype)
        return self.output(full_attention(q, *memory).transpose(1, 2).flatten(2))
