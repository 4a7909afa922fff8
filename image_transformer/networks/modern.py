"""The modern network: inputs from generated neighbours, pre-norm blocks, rotary positions, gated feed-forward layers.

Its head starts at zero on top of a linear skip from the neighbours to the means, so that training starts from the
best linear predictor of the data (`closed_form_start`) instead of from noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from image_transformer.conditions.base import Condition, Given
from image_transformer.conditions.frames import Action, Frames
from image_transformer.conditions.label import Label
from image_transformer.conditions.source import Source
from image_transformer.conditions.text import Text
from image_transformer.config.model import Modern
from image_transformer.geometry.neighbours import nearest_generated
from image_transformer.geometry.order import Layout
from image_transformer.geometry.patterns import Near, attends
from image_transformer.likelihoods.base import Likelihood, to_unit
from image_transformer.networks.base import Network
from image_transformer.networks.blocks import Block, Rotary2D, norm
from image_transformer.networks.noise import Dropout
from image_transformer.networks.readers import ENCODERS, FEATURES, SourceReader
from image_transformer.networks.skip import LinearSkip, Neighbours
from image_transformer.networks.transformer import Context, LocalTransformer, Reach, Vector


class ModernTransformer(LocalTransformer):
    """Image -> distribution parameters of each position, given all earlier ones."""

    VECTORS: ClassVar[dict[type[Condition], Any]] = {Label: Vector, Action: Vector}
    FEATURES: ClassVar = FEATURES
    ENCODERS: ClassVar = ENCODERS
    PLACED: ClassVar[dict[type[Condition], Any]] = {Source: SourceReader, Frames: SourceReader}

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
        look = {name: reader.look.of(at) for name, reader in self.placed.items()} if self.looking else {}
        for block, reach, memory, seen in zip(self.blocks, reaches, context.memory, context.pictures, strict=True):
            x = block(x, rotate, reach, memory, pictures={name: (*its, look[name]) for name, its in seen.items()})
        with torch.autocast(x.device.type, enabled=False):  # a mean in bfloat16 would be off by half a level
            params = self.head(norm(x.to(features.dtype)))
            return params if self.skip is None else params + self.skip(features, at)

    def take_over(self, name: str, old: Tensor, new: Tensor, source: Network) -> tuple[Tensor, str] | None:
        assert isinstance(source, ModernTransformer)
        said = []
        if name.endswith(("rows.weight", "columns.weight")) and len(old) != len(new):  # the ends on the ends
            said = [f"is stretched from {len(old)} to {len(new)}"]
            old = interpolate(old.T[None], size=len(new), mode="linear", align_corners=True)[0].T
        if name == "encoders.text.places.weight" and len(old) != len(new):  # of a longer text or a shorter one
            said = [f"is taken over for {min(len(old), len(new))} of {len(new)} places"]
            old = torch.cat([old[: len(new)], new[len(old) :]])
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
