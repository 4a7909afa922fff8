"""The paper's network: shifted inputs, position codes, post-norm blocks with ReLU feed-forward layers.

Parmar et al. (2018), with the details of the authors' code (tensor2tensor) where the paper is silent, since that
code produced the paper's numbers: per-head scaling of the attention, ReLU after DMOL's input layer, learned row and
column codes that are summed, initialisation. Not its faults: the shift runs once along the whole sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from image_transformer.conditions.base import Condition
from image_transformer.conditions.label import Label
from image_transformer.conditions.low import Low
from image_transformer.config.model import Paper
from image_transformer.geometry.order import Layout, Raster
from image_transformer.geometry.order import layout as find_layout
from image_transformer.likelihoods.base import Likelihood, to_unit
from image_transformer.networks.attention import Attend, full_attention
from image_transformer.networks.noise import Dropout
from image_transformer.networks.transformer import Context, LocalTransformer, Memory, Reach, Vector

LN_EPS = 1e-6
INIT_GAIN = 0.2


class PaperTransformer(LocalTransformer):
    """Image -> distribution parameters of each position, given all earlier ones. Slot l holds the value of l - 1."""

    VECTORS: ClassVar[dict[type[Condition], Any]] = {Label: lambda one, width: Vector(one, width, math.sqrt(width))}
    ENCODERS: ClassVar[dict[type[Condition], Any]] = {Low: lambda one, config: Encoder(one, config)}

    previous: Tensor
    previous_channel: Tensor

    def __init__(self, config: Paper, layout: Layout, likelihood: Likelihood) -> None:
        super().__init__(config, layout)
        width = config.width
        self.embed = (SubPixelEmbedding if layout.sub_pixels else PixelEmbedding)(layout.channels, width)
        self.positions = _positions(config, layout)
        self.vectors = self.readers(self.VECTORS, width)
        self.dropout = Dropout(config.dropout)
        self.encoders = self.readers(self.ENCODERS, config)
        self.placed = self.readers(self.PLACED)
        self.blocks = nn.ModuleList(Block(config, cross=len(self.encoders) > 0) for _ in range(config.depth))
        self.head = nn.Linear(width, likelihood.num_params, bias=layout.sub_pixels)
        self.inputs = layout.positions.index[:, None] - 1
        previous = np.concatenate([np.full_like(layout.values[:1], -1), layout.values[:-1]])
        self.register_buffer("previous", torch.from_numpy(previous), persistent=False)
        channel = np.roll(layout.positions.channel, 1)
        self.register_buffer("previous_channel", torch.from_numpy(channel), persistent=False)
        self._initialise()

    @property
    def differentiable(self) -> bool:
        return not self.layout.sub_pixels

    def slots(self, image: Tensor, at: Tensor | slice, reaches: Sequence[Reach], context: Context) -> Tensor:
        previous = self.previous[at]  # (l, v)
        values = image.flatten(1)[:, previous.clamp(min=0)]  # (b, l, v)
        content = self.embed(values, self.previous_channel[at]) * (previous[:, :1] >= 0)
        x = content + self.positions(at)
        x = self.dropout(x if context.added is None else x + context.added)
        for block, reach, memory in zip(self.blocks, reaches, context.memory, strict=True):
            assert reach.attend is not None
            x = block(x, reach.attend, memory)
        with torch.autocast(x.device.type, enabled=False):  # a mean in bfloat16 would be off by half a level
            return self.head(x.to(self.head.weight.dtype))

    def _initialise(self) -> None:
        """Uniform with variance 0.2 / mean of fan-in and fan-out for every matrix, zero biases. Source: its code."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                fan_out, fan_in = module.weight.shape
                limit = math.sqrt(3 * INIT_GAIN * 2 / (fan_in + fan_out))
                nn.init.uniform_(module.weight, -limit, limit)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for vector in self.vectors.values():
            nn.init.normal_(vector.weight, std=self.head.in_features**-0.5)


class Encoder(nn.Module):
    """Reads the sub-pixels of the low-resolution image with full attention, nothing hidden. Source: paper, 4.2."""

    channel: Tensor
    values: Tensor

    def __init__(self, condition: Low, config: Paper) -> None:
        super().__init__()
        layout = find_layout(Raster(), condition.shape(config.shape), True)
        self.num_states = layout.num_positions
        self.embed = SubPixelEmbedding(layout.channels, config.width)
        self.positions = _positions(config, layout)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.encoder_depth))
        self.register_buffer("values", torch.from_numpy(layout.values), persistent=False)
        self.register_buffer("channel", torch.from_numpy(layout.positions.channel), persistent=False)

    def forward(self, low: Tensor) -> tuple[Tensor]:
        """States `(b, m, d)` of the sub-pixels of uint8 `low` (b, c, h / f, w / f)."""
        x = self.dropout(self.embed(low.flatten(1)[:, self.values], self.channel) + self.positions(slice(None)))
        for block in self.blocks:
            x = block(x, full_attention)
        return (x,)


def _positions(config: Paper, layout: Layout) -> SinusoidalPositions | LearnedPositions:
    return (SinusoidalPositions if config.positions == "sinusoidal" else LearnedPositions)(layout, config.width)


class SubPixelEmbedding(nn.Module):
    """One 256-row table per channel, times sqrt(width). Source: paper, 3.1."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.scale = math.sqrt(width)
        self.table = nn.Embedding(channels * 256, width)
        nn.init.normal_(self.table.weight, std=width**-0.5)

    def forward(self, values: Tensor, channel: Tensor) -> Tensor:
        """`values` (b, l, 1) of the channels `channel` (l,) -> (b, l, d)."""
        return self.table(values[..., 0] + 256 * channel) * self.scale


class PixelEmbedding(nn.Module):
    """A 1 x 3 convolution over the channels of a pixel, on [-1, 1], then ReLU. Source: paper, 3.1, and its code."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, width)

    def forward(self, values: Tensor, channel: Tensor) -> Tensor:
        """`values` (b, l, c) of whole pixels -> (b, l, d); `channel` is not needed."""
        return relu(self.project(to_unit(values, self.project.weight.dtype)))


class SinusoidalPositions(nn.Module):
    """Fixed codes: sines and cosines of the row in the first half of the width, of column-and-channel in the second.

    Wavelengths are geometric from 2 pi to 2 pi 10^4. Source: paper, 3.1, and its code.
    """

    code: Tensor

    def __init__(self, layout: Layout, width: int) -> None:
        super().__init__()
        timescales = width // 4
        rates = np.exp(-math.log(1e4) * np.arange(timescales) / max(timescales - 1, 1))
        row, column = _row_and_column(layout)
        angles = [row[:, None] * rates, column[:, None] * rates]
        code = np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1)
        self.register_buffer("code", torch.from_numpy(code).float(), persistent=False)

    def forward(self, at: Tensor | slice) -> Tensor:
        return self.code[at]


class LearnedPositions(nn.Module):
    """Learned codes: one table of rows and one of columns-and-channels, summed, times sqrt(width). Source: its code."""

    row: Tensor
    column: Tensor

    def __init__(self, layout: Layout, width: int) -> None:
        super().__init__()
        row, column = _row_and_column(layout)
        self.register_buffer("row", torch.from_numpy(row), persistent=False)
        self.register_buffer("column", torch.from_numpy(column), persistent=False)
        self.scale = math.sqrt(width)
        self.rows = nn.Embedding(int(row.max()) + 1, width)
        self.columns = nn.Embedding(int(column.max()) + 1, width)
        for table in (self.rows, self.columns):
            nn.init.normal_(table.weight, std=width**-0.5)

    def forward(self, at: Tensor | slice) -> Tensor:
        return (self.rows(self.row[at]) + self.columns(self.column[at])) * self.scale


def _row_and_column(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Row, and column * channels + channel, of every position `(l,)`."""
    p = layout.positions
    return p.row, p.col * (layout.channels if layout.sub_pixels else 1) + p.channel


class Block(nn.Module):
    """Self-attention and feed-forward, each as LayerNorm(x + dropout(f(x))). Source: paper, 3.2, equations 1 and 2.

    With `cross`, attention to what an encoder has read comes between them.
    """

    def __init__(self, config: Paper, cross: bool = False) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.cross = Attention(config) if cross else None
        self.feed_forward = nn.Sequential(
            nn.Linear(config.width, config.feed_forward),
            nn.ReLU(),
            nn.Linear(config.feed_forward, config.width),
        )
        self.norm_attention = nn.LayerNorm(config.width, eps=LN_EPS)
        self.norm_cross = nn.LayerNorm(config.width, eps=LN_EPS) if cross else None
        self.norm_feed_forward = nn.LayerNorm(config.width, eps=LN_EPS)
        self.drop_attention, self.drop_cross, self.drop = (Dropout(config.dropout) for _ in range(3))

    def remember(self, states: Tensor) -> Memory:
        """What an encoder's states `(b, m, d)` are to this layer: `memory` of `forward`."""
        assert self.cross is not None
        return Memory(*self.cross.keys_and_values(states))

    def forward(self, x: Tensor, attend: Attend, memory: Memory | None = None) -> Tensor:
        x = self.norm_attention(x + self.drop_attention(self.attention(x, *self.attention.keys_and_values(x), attend)))
        if self.cross is not None and self.norm_cross is not None and memory is not None:
            x = self.norm_cross(x + self.drop_cross(self.cross(x, memory.keys, memory.values, full_attention)))
        return self.norm_feed_forward(x + self.drop(self.feed_forward(x)))


class Attention(nn.Module):
    """Multi-head attention without biases, scaled by the head width; `attend` decides who sees whom."""

    def __init__(self, config: Paper) -> None:
        super().__init__()
        total = config.heads * config.head_width
        self.heads = config.heads
        self.query = nn.Linear(config.width, total, bias=False)
        self.key = nn.Linear(config.width, total, bias=False)
        self.value = nn.Linear(config.width, total, bias=False)
        self.output = nn.Linear(total, config.width, bias=False)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(b, a, l, e)` each, of what is attended to, `(b, l, d)`."""
        return self._split(self.key(x)), self._split(self.value(x))

    def forward(self, x: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        return self.output(attend(self._split(self.query(x)), k, v).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
