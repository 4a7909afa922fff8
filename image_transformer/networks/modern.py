"""The modern network: inputs from generated neighbours, pre-norm blocks, rotary positions, gated feed-forward layers.

Its head starts at zero on top of a linear skip from the neighbours to the means, so that training starts from the
best linear predictor of the data (`closed_form_start`) instead of from noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, relu, rms_norm, silu

from image_transformer.conditions.action import Action
from image_transformer.conditions.base import Condition, Given
from image_transformer.conditions.frames import Frames
from image_transformer.conditions.label import Label
from image_transformer.conditions.low import Low
from image_transformer.conditions.source import Source
from image_transformer.conditions.text import NUM_CODES, PADDING, Text
from image_transformer.config.model import Modern
from image_transformer.geometry.boxes import places_in_boxes
from image_transformer.geometry.neighbours import nearest_generated
from image_transformer.geometry.order import Layout, Raster
from image_transformer.geometry.order import layout as layout_of
from image_transformer.geometry.patterns import Around, Near, attends
from image_transformer.likelihoods.base import Likelihood, to_unit
from image_transformer.networks.attention import Attend, Look, TiledAttention, full_attention
from image_transformer.networks.base import Network
from image_transformer.networks.noise import Dropout
from image_transformer.networks.skip import LinearSkip, Neighbours
from image_transformer.networks.transformer import (
    Context,
    KeysAndValues,
    LocalTransformer,
    Memory,
    Reach,
    Vector,
    joined,
)

Rotation = tuple[Tensor, Tensor]  # cosines and sines
Picture = tuple[Tensor, Tensor, Attend]  # the keys and values of its pixels, and how positions attend to them
RUNS, RUN_CODES = (3, 4, 5, 6, 8), 4096  # lengths of runs of bytes, and how many codes they are hashed to
BLOCK, BESIDE = (8, 8), (4, 4)  # pixels of a source that are read together, and those seen around them
Seen = Source | Frames  # what a pixel is told of by sight, near or all


class ModernTransformer(LocalTransformer):
    """Image -> distribution parameters of each position, given all earlier ones."""

    VECTORS: ClassVar[dict[type[Condition], Any]] = {Label: Vector, Action: Vector}
    FEATURES: ClassVar[dict[type[Condition], Any]] = {
        Low: lambda one, layout: LowFeatures(one, layout),
        Source: lambda one, layout: SourceFeatures(one, layout),
        Frames: lambda one, layout: FramesFeatures(one, layout),
    }
    ENCODERS: ClassVar[dict[type[Condition], Any]] = {
        Low: lambda one, config: Encoder(one, config),
        Text: lambda one, config: TextEncoder(one, config),
    }
    PLACED: ClassVar[dict[type[Condition], Any]] = {
        Source: lambda one, config, layout: SourceReader(one, config, layout),
        Frames: lambda one, config, layout: SourceReader(one, config, layout),
    }

    row: Tensor
    column: Tensor
    channel: Tensor

    def __init__(self, config: Modern, layout: Layout, likelihood: Likelihood) -> None:
        near = Near(nearest_generated(layout.order)[: config.mix]) if config.mix else None
        super().__init__(config, layout, near)
        width, p = config.width, layout.positions
        for name, place in {"row": p.row, "column": p.col, "channel": p.channel}.items():
            self.register_buffer(name, torch.from_numpy(place), persistent=False)
        self.neighbours = Neighbours(layout)
        self.local = self.readers(self.FEATURES, layout)
        table = self.neighbours.table
        inputs = np.where(table >= 0, layout.position_of[table], -1)
        self.inputs = np.concatenate([inputs, *(one.inputs for one in self.local.values())], 1)
        num_features = self.neighbours.num_features + sum(one.num_features for one in self.local.values())
        self.stem = nn.Linear(num_features, width)
        self.rows = self.columns = None
        if config.places == "learned":
            self.rows, self.columns = nn.Embedding(layout.height, width), nn.Embedding(layout.width, width)
        self.channels = nn.Embedding(int(p.channel.max()) + 1, width)
        self.vectors = self.readers(self.VECTORS, width)
        for embedding in (self.rows, self.columns, self.channels, *self.vectors.values()):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=0.02)
        self.dropout = Dropout(config.dropout)
        self.rotary = Rotary2D(p.row, p.col, config.head_width)
        self.encoders = self.readers(self.ENCODERS, config)
        self.placed = self.readers(self.PLACED, config, layout)
        everywhere = config.condition(Text) is not None  # words are heard in layers, too, that see no other pixels
        cross = [everywhere or (len(self.encoders) > 0 and attends(p)) for p in config.patterns]
        self.looking = config.look
        looks = tuple(self.placed) if config.look else ()
        self.blocks = nn.ModuleList(
            Block(config, its, config.mix, attends(p), looks) for its, p in zip(cross, config.patterns, strict=True)
        )
        self.head = nn.Linear(width, likelihood.num_params, bias=False)
        likelihood.init_head(self.head.weight)
        phase = next((one.phase for one in self.local.values() if one.phase is not None), None)
        self.skip = LinearSkip(num_features, likelihood, layout.channels, phase) if likelihood.has_means else None

    def features(self, image: Tensor, at: Tensor | slice, given: Given) -> Tensor:
        """Values on [-1, 1] of the generated neighbours of positions `at`, `(b, l, f)`; 0 where there are none.

        After them what conditions say of each position.
        """
        neighbours: Tensor = self.neighbours(image, at, self.head.weight.dtype)
        local = [one(image, given[name], at).to(neighbours.dtype) for name, one in self.local.items()]
        return torch.cat([neighbours, *local], -1) if local else neighbours

    def slots(self, image: Tensor, at: Tensor | slice, reaches: Sequence[Reach], context: Context) -> Tensor:
        features = self.features(image, at, context.given)
        place = self.channels(self.channel[at])
        if self.rows is not None and self.columns is not None:
            place = self.rows(self.row[at]) + self.columns(self.column[at]) + place
        if (added := context.added_at(at)) is not None:
            place = place + added
        with torch.autocast(image.device.type, enabled=False):  # bfloat16 has no room for neighbouring levels
            x = self.dropout(self.stem(features) + place)
        rotate = self.rotary(at)
        look = {name: reader.look.of(at) for name, reader in self.placed.items()} if context.pictures else {}
        for layer, (block, reach) in enumerate(zip(self.blocks, reaches, strict=True)):
            pictures = {name: (*its, look[name]) for name, its in context.pictures_of(layer).items()}
            x = block(x, rotate, reach, context.of_layer(layer), pictures=pictures)
        with torch.autocast(x.device.type, enabled=False):  # a mean in bfloat16 would be off by half a level
            params = self.head(_norm(x.to(features.dtype)))
            return params if self.skip is None else params + self.skip(features, at)

    def take_over(self, name: str, old: Tensor, new: Tensor, source: Network) -> tuple[Tensor, str] | None:
        assert isinstance(source, ModernTransformer)
        said = []
        if name.endswith(("rows.weight", "columns.weight")) and len(old) != len(new):  # the ends on the ends
            said = [f"is stretched from {len(old)} to {len(new)}"]
            old = interpolate(old.T[None], size=len(new), mode="linear", align_corners=True)[0].T
        if name.startswith("skip.") and len(old) != len(new):
            # one map for each place in a box of a low-resolution image, or one for all
            each = self.layout.channels if "means" in name else self.head.out_features
            one = old.unflatten(0, (len(old) // each, -1)).mean(0)
            old = one.repeat(len(new) // each, *[1] * (one.ndim - 1))
            said = ["is that of all places in a box"]
        theirs, ours = source._inputs(), self._inputs()
        if name in ("stem.weight", "skip.means.weight") and theirs != ours:
            common, filled = theirs.keys() & ours.keys(), old.new_zeros(len(old), new.shape[1])
            for one in common:
                filled[:, ours[one]] = old[:, theirs[one]]
            said.append(f"is taken over for {sum(width for _, width in common)} of {new.shape[1]} inputs")
            old = filled
        return (old, " and ".join(said)) if said else None

    def _inputs(self) -> dict[tuple[str, int], slice]:
        """Which features are those of the neighbours, "", and of each condition: by its name and how many it has."""
        found, end = {}, 0
        for name, one in (("", self.neighbours), *self.local.items()):
            found[name, one.num_features] = slice(end, end := end + one.num_features)
        return found

    @torch.no_grad()
    def closed_form_start(self, image: Tensor, given: Given) -> None:
        """Fit the skip to uint8 `image` (b, c, h, w), and a stem that whitens its inputs.

        Whitening makes the small differences between neighbours as loud as their mean, which they all share.
        """
        by_position = self.features(image, slice(None), given).double()
        features = by_position.flatten(0, 1)
        mean = features.mean(0)
        variance, axes = torch.linalg.eigh((features - mean).T @ (features - mean) / len(features))
        whiten = axes / (variance + 1e-5).sqrt()  # (f, f)
        mix = torch.randn(self.stem.weight.shape, dtype=torch.float64) / math.sqrt(len(mean))
        self.stem.weight.copy_(mix @ whiten.T)
        self.stem.bias.copy_(-self.stem.weight.double() @ mean)
        if self.skip is not None:
            values = image.flatten(2)[:, :, self.row * image.shape[3] + self.column]  # (b, c, l)
            self.skip.fit(by_position, to_unit(values.transpose(1, 2), torch.float64))


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
        self.features = ModernTransformer.FEATURES[type(condition)](condition, seen)
        self.stem = nn.Linear(self.features.num_features, config.width)
        self.places = nn.Embedding(self.num_states, config.width) if far else None  # the others know no sides
        if self.places is not None:
            nn.init.normal_(self.places.weight, std=0.02)
        pattern = None if far else Around(BLOCK, BESIDE)
        self.attend = _all_heads if pattern is None else TiledAttention(pattern, seen, config.groups)
        self.look = Look(pattern, layout, seen) if config.look else None
        self.num_seen = self.num_states if far else math.prod(a + 2 * b for a, b in zip(BLOCK, BESIDE, strict=True))
        self.rotary = Rotary2D(seen.positions.row, seen.positions.col, config.head_width)
        kinds = [type(one) for one in config.conditions if type(one) in ModernTransformer.ENCODERS]
        self.nowhere = not far and Low not in kinds  # of a text alone, all positions ask alike
        self.blocks = nn.ModuleList(Block(config, cross=len(kinds) > 0) for _ in range(config.encoder_depth))
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
        return _norm(x), rotate

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
            x = block(x, rotate, Reach(_all_heads))
        return _norm(x), rotate


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
            x = block(x, rotate, Reach(partial(_all_heads, there=there)))
        return _norm(x), (x.new_ones(1), x.new_zeros(1)), there


def _run_codes(codes: Tensor) -> Tensor:
    """The hashes `(b, m, r)` of the runs, as long as `RUNS` says, that end at each of the codes (b, m)."""
    padded, hashed, found = pad(codes.long() + 1, (max(RUNS) - 1, 0)), torch.zeros_like(codes, dtype=torch.int64), []
    for back in range(max(RUNS)):
        hashed = (hashed * 1_000_003 + padded[:, max(RUNS) - 1 - back : padded.shape[1] - back]) % (2**31 - 1)
        if back + 1 in RUNS:
            found.append(hashed * 2_654_435_761 % 2**32 * RUN_CODES // 2**32)  # the upper bits: the lower mix badly
    return torch.stack(found, -1)


def _all_heads(q: Tensor, k: Tensor, v: Tensor, there: Tensor | None = None) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    return full_attention(q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), there)


class Rotary2D(nn.Module):
    """Rotations of queries and keys by their place: half of the head width turns with the row, half with the column."""

    cos: Tensor
    sin: Tensor

    def __init__(self, row: NDArray[Any], col: NDArray[Any], head_width: int) -> None:
        super().__init__()
        pairs = head_width // 4
        rates = 100.0 ** -(np.arange(pairs) / pairs)  # radians per pixel: wavelengths from 6 to some hundred pixels
        angles = np.concatenate([row[:, None] * rates, col[:, None] * rates], axis=1)
        self.register_buffer("cos", torch.from_numpy(np.cos(angles)).float(), persistent=False)
        self.register_buffer("sin", torch.from_numpy(np.sin(angles)).float(), persistent=False)

    def forward(self, at: Tensor | slice) -> Rotation:
        return self.cos[at], self.sin[at]


def _rotate(x: Tensor, rotate: Rotation) -> Tensor:
    cos, sin = (r.to(x.dtype) for r in rotate)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


def _norm(x: Tensor) -> Tensor:
    return rms_norm(x, x.shape[-1:])


class Block(nn.Module):
    """Self-attention and gated feed-forward on normalised inputs; both start at zero (Zhang et al., 2019: fixup).

    With `cross`, attention to what an encoder has read comes between them; without `attends`, there is no attention to
    other positions.
    With `mix`, the feed-forward layer is given a mixture of the states at so many neighbours and its own.
    Of a memory it asks from where its positions are (`rotate`), or from `asking`. looks: the conditions whose pictures
    it also attends to.
    """

    looks: Any

    def __init__(
        self, config: Modern, cross: bool = False, mix: int = 0, attends: bool = True, looks: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(mix, config.width)) if mix else None
        self.attention = SelfAttention(config) if attends else None
        self.cross = CrossAttention(config) if cross else None
        self.looks = nn.ModuleDict({name: CrossAttention(config) for name in looks})
        self.drop_looks = nn.ModuleDict({name: Dropout(config.dropout) for name in looks})
        self.gate = {"silu": silu, "relu": relu}[config.gate]
        self.gate_up = nn.Linear(config.width, 2 * config.feed_forward, bias=False)
        self.down = nn.Linear(config.feed_forward, config.width, bias=False)
        nn.init.zeros_(self.down.weight)
        self.drop_attention, self.drop_cross, self.drop = (Dropout(config.dropout) for _ in range(3))

    def remember(self, states: Tensor, rotate: Rotation, there: Tensor | None = None) -> Memory:
        """What an encoder's states `(b, m, d)` are to this layer: `memory` of `forward`."""
        assert self.cross is not None
        return Memory(*self.cross.keys_and_values(states, rotate), there)

    def look_at(self, pictures: Mapping[str, tuple[Tensor, Rotation]]) -> dict[str, KeysAndValues]:
        """What the states `(b, m, d)` of pictures, by the names of their conditions, are to this layer."""
        return {name: look.keys_and_values(*pictures[name]) for name, look in self.looks.items()}

    def forward(
        self,
        x: Tensor,
        rotate: Rotation,
        reach: Reach,
        memory: Memory | None = None,
        asking: Rotation | None = None,
        pictures: Mapping[str, Picture] = {},
    ) -> Tensor:
        if self.attention is not None and reach.attend is not None:
            x = x + self.drop_attention(self.attention(_norm(x), rotate, reach.attend))
        if self.cross is not None and memory is not None:
            attend = partial(full_attention, there=memory.there)
            x = x + self.drop_cross(self.cross(_norm(x), asking or rotate, memory.keys, memory.values, attend))
        for name, picture in pictures.items():
            x = x + self.drop_looks[name](self.looks[name](_norm(x), rotate, *picture))
        seen = _norm(x)
        if self.mix is not None and reach.mix is not None:
            seen = reach.mix(seen, self.mix)
        gate, up = self.gate_up(seen).chunk(2, -1)
        return x + self.drop(self.down(self.gate(gate) * up))


class SelfAttention(nn.Module):
    """Multi-head attention with normalised, rotated queries and keys; `attend` decides who sees whom."""

    def __init__(self, config: Modern) -> None:
        super().__init__()
        total = config.heads * config.head_width
        self.heads, self.kv_heads = config.heads, config.kv_heads or config.heads
        self.query_key_value = nn.Linear(config.width, total + 2 * self.kv_heads * config.head_width, bias=False)
        self.gain = nn.Parameter(torch.ones(config.heads, 1, 1))
        self.output = nn.Linear(total, config.width, bias=False)
        nn.init.zeros_(self.output.weight)

    def forward(self, x: Tensor, rotate: Rotation, attend: Attend) -> Tensor:
        qkv = self.query_key_value(x).unflatten(-1, (self.heads + 2 * self.kv_heads, -1)).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], 1)  # (b, a, l, e)
        q = _rotate(_norm(q), rotate) * self.gain.to(q.dtype)
        k = _rotate(_norm(k), rotate)
        return self.output(attend(q, k, v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Multi-head attention to what a reader has made of a condition; queries and keys are normalised and rotated."""

    def __init__(self, config: Modern) -> None:
        super().__init__()
        total = config.heads * config.head_width
        self.heads = config.heads
        self.query = nn.Linear(config.width, total, bias=False)
        self.key_value = nn.Linear(config.width, 2 * total, bias=False)
        self.gain = nn.Parameter(torch.ones(config.heads, 1, 1))
        self.output = nn.Linear(total, config.width, bias=False)
        nn.init.zeros_(self.output.weight)

    def keys_and_values(self, encoded: Tensor, rotate: Rotation) -> KeysAndValues:
        """`(b, a, m, e)` each, of the states `(b, m, d)`."""
        k, v = self.key_value(encoded).unflatten(-1, (2 * self.heads, -1)).transpose(1, 2).chunk(2, 1)
        return _rotate(_norm(k), rotate), v

    def forward(self, x: Tensor, rotate: Rotation, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q = _rotate(_norm(q), rotate) * self.gain.to(q.dtype)
        return self.output(attend(q, k, v).transpose(1, 2).flatten(2))
