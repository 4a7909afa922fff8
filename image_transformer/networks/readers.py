"""What the modern family makes of conditions: features of each position, states that layers attend to, both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from image_transformer.conditions.base import Condition
from image_transformer.conditions.frames import Frames
from image_transformer.conditions.low import Low
from image_transformer.conditions.source import Source
from image_transformer.conditions.text import NUM_CODES, PADDING, Text
from image_transformer.config.model import Modern
from image_transformer.geometry.boxes import places_in_boxes
from image_transformer.geometry.order import Layout, Raster
from image_transformer.geometry.order import layout as layout_of
from image_transformer.geometry.patterns import Around
from image_transformer.likelihoods.base import to_unit
from image_transformer.networks.attention import Attend, Look, TiledAttention
from image_transformer.networks.blocks import Block, Rotary2D, Rotation, all_heads, norm
from image_transformer.networks.noise import Dropout
from image_transformer.networks.transformer import Reach, joined

RUNS, RUN_CODES = (3, 4, 5, 6, 8), 4096  # lengths of runs of bytes, and how many codes they are hashed to
BLOCK, BESIDE = (8, 8), (4, 4)  # pixels of a source that are read together, and those seen around them
Seen = Source | Frames  # what a pixel is told of by sight, near or all


class LowFeatures(nn.Module):
    """What the low-resolution image says of a position, on [-1, 1]: the mean of its box, and what is left of it.

    What is left is the mean of the values of the box that are not generated yet, which follows from those that are;
    each channel by itself. The low-resolution pixels around are for the encoder alone: among the features they cost
    0.03 bits/dim.
    phase: the place of each position in its box, `(l,)`, 0 to factor^2 - 1.
    """

    box: Tensor
    mates: Tensor
    generated: Tensor

    def __init__(self, condition: Low, layout: Layout) -> None:
        super().__init__()
        factor = condition.factor
        p, channels = layout.positions, np.arange(layout.channels)
        low_height, low_width = layout.height // factor, layout.width // factor
        self.num_features = 2 * layout.channels
        self.values_per_box = factor**2
        self.phase = torch.from_numpy((p.row % factor) * factor + p.col % factor)
        box = (channels * low_height + p.row[:, None] // factor) * low_width + p.col[:, None] // factor  # (l, c)
        self.register_buffer("box", torch.from_numpy(box), persistent=False)
        mates = places_in_boxes(layout, factor)[box]  # (l, c, n)
        generated = p.front[layout.position_of[mates]] < p.front[:, None, None]
        self.register_buffer("mates", torch.from_numpy(mates), persistent=False)
        self.register_buffer("generated", torch.from_numpy(generated), persistent=False)
        self.inputs = np.where(generated, layout.position_of[mates], -1).reshape(len(p), -1)

    def forward(self, image: Tensor, low: Tensor, at: Tensor | slice) -> Tensor:
        """`(b, l, 2 c)` for the positions `at`, of `image` (b, c, h, w) and `low` (b, c, h / f, w / f)."""
        mean = low.flatten(1)[:, self.box[at]].float()  # (b, l, c)
        generated = self.generated[at]
        total = (image.flatten(1)[:, self.mates[at]] * generated).sum(-1, dtype=torch.int32)  # (b, l, c)
        left = (self.values_per_box - generated.sum(-1)).clamp(min=1)  # sub-pixel positions have channels that are done
        rest = ((self.values_per_box * mean - total) / left).clamp(0, 255)
        return to_unit(torch.cat([mean, rest], -1), torch.float32)


class SourceFeatures(nn.Module):
    """The pixels of the source at a position and around it, 3 x 3, on [-1, 1]; at the sides their nearest ones."""

    phase = None
    places: Tensor

    def __init__(self, condition: Condition, layout: Layout, images: int = 1) -> None:
        """images: how many are given one behind the other, in the place of one."""
        super().__init__()
        p, offsets = layout.positions, np.indices((3, 3)).reshape(2, -1) - 1
        row = (p.row[:, None] + offsets[0]).clip(0, layout.height - 1)
        col = (p.col[:, None] + offsets[1]).clip(0, layout.width - 1)
        channel = np.arange(images * layout.channels)[:, None]
        places = ((channel * layout.height + row[:, None]) * layout.width + col[:, None]).reshape(len(p), -1)
        self.num_features = places.shape[1]
        self.inputs = np.empty((len(p), 0), np.int64)  # nothing of the image itself
        self.register_buffer("places", torch.from_numpy(places), persistent=False)

    def forward(self, image: Tensor, source: Tensor, at: Tensor | slice) -> Tensor:
        """`(b, l, 9 c)` for the positions `at`, of `source` (b, c, h, w)."""
        return to_unit(source.flatten(1)[:, self.places[at]], torch.float32)


class FramesFeatures(SourceFeatures):
    """The pixels of the frames before, as `SourceFeatures`, 0 where there is no frame; and for each whether it is."""

    def __init__(self, condition: Frames, layout: Layout) -> None:
        super().__init__(condition, layout, condition.count)
        self.num_features += condition.count

    def forward(self, image: Tensor, frames: Tensor, at: Tensor | slice) -> Tensor:
        """`(b, l, t (9 c + 1))` for the positions `at`, of `frames` (b, t, c, h, w), -1 where there is none."""
        there = (frames[:, :, 0, 0, 0] >= 0).float()  # (b, t)
        places = self.places[at]
        seen = super().forward(image, frames, at).unflatten(-1, (there.shape[1], -1)) * there[:, None, :, None]
        return torch.cat([seen.flatten(2), there[:, None].expand(-1, len(places), -1)], -1)


class SourceReader(nn.Module):
    """Reads the source, or the frames before, and what else the model is told: a state for each pixel.

    By blocks that attend to the pixels around, or to all, and to what the encoders have read, such as an instruction.
    """

    pixel: Tensor
    attend: Attend
    blocks: Any

    def __init__(self, condition: Seen, config: Modern, layout: Layout) -> None:
        super().__init__()
        seen = layout_of(Raster(), config.shape, sub_pixels=False)
        far = condition.sight == "all"
        self.num_states = seen.num_positions
        p = layout.positions
        self.register_buffer("pixel", torch.from_numpy(p.row * layout.width + p.col), persistent=False)
        self.features = FEATURES[type(condition)](condition, seen)
        self.stem = nn.Linear(self.features.num_features, config.width)
        self.places = nn.Embedding(self.num_states, config.width) if far else None  # the others know no sides
        if self.places is not None:
            nn.init.normal_(self.places.weight, std=0.02)
        pattern = None if far else Around(BLOCK, BESIDE)
        self.attend = all_heads if pattern is None else TiledAttention(pattern, seen, config.groups)
        self.look = Look(pattern, layout, seen) if config.look else None
        self.num_seen = self.num_states if far else math.prod(a + 2 * b for a, b in zip(BLOCK, BESIDE, strict=True))
        self.rotary = Rotary2D(seen.positions.row, seen.positions.col, config.head_width)
        told = [one for one in config.conditions if type(one) in ENCODERS]
        self.nowhere = not far and config.condition(Low) is None  # of a text alone, all positions ask alike
        self.blocks = nn.ModuleList(Block(config, cross=len(told) > 0) for _ in range(config.encoder_depth))
        self.dropout = Dropout(config.dropout)
        self.output = nn.Linear(config.width, config.width, bias=False)
        nn.init.zeros_(self.output.weight)

    def forward(self, source: Tensor, read: Sequence[Any]) -> tuple[Tensor, Rotation]:
        """States `(b, m, d)` of the pixels of `source` as `features` take it, row by row, and their rotations.

        read: what the encoders have made of other conditions.
        """
        rotate = self.rotary(slice(None))
        asking = read[0][1] if self.nowhere and read else None
        with torch.autocast(source.device.type, enabled=False):
            x = self.stem(self.features(source, source, slice(None)).to(self.stem.weight.dtype))
            x = self.dropout(x if self.places is None else x + self.places.weight)
        for block in self.blocks:
            memory = joined([block.remember(*one) for one in read]) if block.cross is not None else None
            x = block(x, rotate, Reach(self.attend), memory, asking)
        return norm(x), rotate

    def at_positions(self, states: Tensor) -> Tensor:
        """What its states add to each position of the image, `(b, l, d)`."""
        added: Tensor = self.output(states)
        return added[:, self.pixel]


class Encoder(nn.Module):
    """Reads the low-resolution image: every pixel sees every other. Its places are those of the boxes' centres."""

    row: Tensor
    column: Tensor

    def __init__(self, condition: Low, config: Modern) -> None:
        super().__init__()
        channels, height, width = condition.shape(config.shape)
        self.num_states = height * width
        row, col = (x.reshape(-1) for x in np.indices((height, width)))
        self.register_buffer("row", torch.from_numpy(row), persistent=False)
        self.register_buffer("column", torch.from_numpy(col), persistent=False)
        self.stem = nn.Linear(channels, config.width)
        self.rows, self.columns = nn.Embedding(height, config.width), nn.Embedding(width, config.width)
        for table in (self.rows, self.columns):
            nn.init.normal_(table.weight, std=0.02)
        factor, centre = condition.factor, (condition.factor - 1) / 2
        self.rotary = Rotary2D(factor * row + centre, factor * col + centre, config.head_width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.encoder_depth))
        self.dropout = Dropout(config.dropout)

    def forward(self, low: Tensor) -> tuple[Tensor, Rotation]:
        """States `(b, m, d)` of the pixels of uint8 `low` (b, c, h / f, w / f), row by row, and their rotations."""
        pixels = to_unit(low.flatten(2).transpose(1, 2), self.stem.weight.dtype)
        with torch.autocast(low.device.type, enabled=False):
            x = self.dropout(self.stem(pixels) + self.rows(self.row) + self.columns(self.column))
        rotate = self.rotary(slice(None))
        for block in self.blocks:
            x = block(x, rotate, Reach(all_heads))
        return norm(x), rotate


class TextEncoder(nn.Module):
    """Reads a text: every byte sees every other, and no padding. To the pixels all of it is at row and column 0.

    A byte is embedded with the runs of bytes that end at it (Pagnoni et al., 2024, the Byte Latent Transformer, 3.2.1):
    so the last byte of a word knows which word it is before any layer has learned to spell.
    """

    def __init__(self, condition: Text, config: Modern) -> None:
        super().__init__()
        self.num_states = 1 + condition.length + bool(condition.encoder)  # an encoder also adds an end
        self.places = nn.Embedding(self.num_states, config.width)
        nn.init.normal_(self.places.weight, std=0.02)
        if condition.encoder:
            self.project = nn.Linear(condition.features, config.width)
        else:
            self.bytes, self.runs = nn.Embedding(NUM_CODES, config.width), nn.Embedding(RUN_CODES, config.width)
            for table in (self.bytes, self.runs):
                nn.init.normal_(table.weight, std=0.02)
        place = np.arange(self.num_states)
        self.rotary = Rotary2D(place, place, config.head_width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.encoder_depth))
        self.dropout = Dropout(config.dropout)

    def forward(self, texts: Tensor) -> tuple[Tensor, Rotation, Tensor]:
        """States `(b, m, d)` of the values (b, m, ...) of `texts`, their rotations, and which are there `(b, 1, 1, m)`.

        Values as of the condition: codes, or the states of a frozen encoder.
        """
        at, frozen = slice(texts.shape[1]), texts.is_floating_point()
        there = (texts[..., 0] > 0 if frozen else texts != PADDING)[:, None, None]
        with torch.autocast(texts.device.type, enabled=False):
            if frozen:
                x = self.project(texts[..., 1:].to(self.project.weight.dtype))
            else:
                x = self.bytes(texts.int()) + self.runs(_run_codes(texts)).sum(2)
            x = self.dropout(x + self.places.weight[at])
        rotate = self.rotary(at)
        for block in self.blocks:
            x = block(x, rotate, Reach(partial(all_heads, there=there)))
        return norm(x), (x.new_ones(1), x.new_zeros(1)), there


def _run_codes(codes: Tensor) -> Tensor:
    """The hashes `(b, m, r)` of the runs, as long as `RUNS` says, that end at each of the codes (b, m)."""
    padded, hashed, found = pad(codes.long() + 1, (max(RUNS) - 1, 0)), torch.zeros_like(codes, dtype=torch.int64), []
    for back in range(max(RUNS)):
        hashed = (hashed * 1_000_003 + padded[:, max(RUNS) - 1 - back : padded.shape[1] - back]) % (2**31 - 1)
        if back + 1 in RUNS:
            found.append(hashed * 2_654_435_761 % 2**32 * RUN_CODES // 2**32)  # the upper bits: the lower mix badly
    return torch.stack(found, -1)


FEATURES: dict[type[Condition], Any] = {Low: LowFeatures, Source: SourceFeatures, Frames: FramesFeatures}
ENCODERS: dict[type[Condition], Any] = {Low: Encoder, Text: TextEncoder}
