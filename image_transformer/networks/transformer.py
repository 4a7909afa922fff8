"""What the transformers have in common: local attention, conditions, and decoding with a key/value cache.

A family's layers are given a `Reach`, by which they see other positions, and do not know whether that is a whole image
(`TiledAttention`, `Mixing`) or the next positions (`CachedDecoder`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from image_transformer.conditions.base import Condition, Given
from image_transformer.config.model import Transformer
from image_transformer.geometry.order import IntArray, Layout
from image_transformer.geometry.patterns import BoolArray, Near, Sight, attends
from image_transformer.geometry.schedule import Schedule, as_early_as_possible
from image_transformer.networks.attention import Attend, TiledAttention
from image_transformer.networks.base import Network, refuse_unknown
from image_transformer.networks.cache import CachedDecoder
from image_transformer.networks.mixing import Mix, Mixing

KeysAndValues = tuple[Tensor, Tensor]


class Memory(NamedTuple):
    """What a layer attends to beside the image: keys and values `(b, a, m, e)`, and where they are no padding.

    there: bool (b, 1, 1, m); None where all are there.
    """

    keys: Tensor
    values: Tensor
    there: Tensor | None = None


class Context(NamedTuple):
    """What a transformer has read of the conditions of a batch of images, once for all positions and layers.

    added: what is added to every position, `(b, 1, d)`, or to each, `(b, l, d)`. memory: for each layer what it attends
    to beside the image, None for one that does not attend. pictures: for each layer the keys and values `(b, a, m, e)`
    of the pictures that it looks at, by the names of their conditions; none where no layer looks.
    given: the conditions themselves, for local features of them.
    """

    added: Tensor | None
    memory: tuple[Memory | None, ...]
    pictures: tuple[dict[str, KeysAndValues], ...]
    given: Given

    def added_at(self, at: Tensor | slice) -> Tensor | None:
        """What is added to the positions `at`, `(b, 1 or f, d)`."""
        return self.added if self.added is None or self.added.shape[1] == 1 else self.added[:, at]


@dataclass(frozen=True)
class Reach:
    """How a layer sees other positions, if at all: attention to those of its pattern, and the mixing of neighbours."""

    attend: Attend | None
    mix: Mix | None = None


class Vector(nn.Embedding):
    """A learned vector for each choice of a condition, added to every position."""

    def __init__(self, condition: Condition, width: int, scale: float = 1.0) -> None:
        super().__init__(len(condition.choices), width)
        self.scale = scale

    def forward(self, chosen: Tensor) -> Tensor:
        """`(b, 1, d)` for the numbers `(b,)` of choices."""
        return super().forward(chosen)[:, None] * self.scale


class LocalTransformer(Network):
    """A stack of `blocks` whose layers attend by patterns; a family says how slots are embedded and what a block is.

    inputs: the positions whose values enter each slot, `(l, n)`, -1 for none. near: the neighbours whose states every
    layer mixes. The schedule follows from the patterns, the inputs, and the neighbours.

    What a family makes of a condition of each kind: a vector added to every position, features of each position, an
    encoder of a memory that every layer attends to, or a reader of a picture, which attends to those memories, too: its
    states are added to the positions where they are, and layers may look at them.
    """

    VECTORS: ClassVar[dict[type[Condition], Any]] = {}
    FEATURES: ClassVar[dict[type[Condition], Any]] = {}
    ENCODERS: ClassVar[dict[type[Condition], Any]] = {}
    PLACED: ClassVar[dict[type[Condition], Any]] = {}

    inputs: IntArray
    vectors: Any  # modules by the names of their conditions, each {name: module}
    encoders: Any
    placed: Any
    blocks: Any
    looking = False  # whether layers look at pictures

    def __init__(self, config: Transformer, layout: Layout, near: Near | None = None) -> None:
        super().__init__()
        self.config, self.layout, self.near = config, layout, near
        refuse_unknown(config, self.VECTORS, self.FEATURES, self.ENCODERS, self.PLACED)
        self.attending = tuple(pattern for pattern in config.patterns if attends(pattern))
        tiled = {pattern: TiledAttention(pattern, layout, config.groups) for pattern in self.attending}
        self.tiled = nn.ModuleList(tiled[p] for p in self.attending)  # layers of one pattern share its tables
        self.mixing = None if near is None else Mixing(near, layout)

    @property
    def sights(self) -> tuple[Sight, ...]:
        """All that any layer sees by."""
        return self.attending if self.near is None else (*self.attending, self.near)

    def reaches(self, attend: Sequence[Attend], mix: Sequence[Mix | None]) -> list[Reach]:
        """One for each layer, of an `Attend` for each that attends, and a `Mix` for each."""
        left = iter(attend)
        patterns = self.config.patterns
        return [Reach(next(left) if attends(p) else None, its) for p, its in zip(patterns, mix, strict=True)]

    def slots(self, image: Tensor, at: Tensor | slice, reaches: Sequence[Reach], context: Context) -> Tensor:
        """Parameters `(b, l, p)` of positions `at`, each layer seeing others by its own of `reaches`."""
        raise NotImplementedError

    def readers(self, kinds: dict[type[Condition], Any], *arguments: Any) -> Any:
        """The modules that read those of the model's conditions that are of these `kinds`, by their names."""
        told = [condition for condition in self.config.conditions if type(condition) in kinds]
        return nn.ModuleDict({one.name: kinds[type(one)](one, *arguments) for one in told})

    def read(self, given: Given) -> Context:
        read = [encoder(given[name]) for name, encoder in self.encoders.items()]
        added = [vector(given[name]) for name, vector in self.vectors.items()]
        seen = {name: reader(given[name], read) for name, reader in self.placed.items()}
        added += [self.placed[name].at_positions(states) for name, (states, _) in seen.items()]
        memory = tuple(
            joined([block.remember(*one) for one in read]) if read and block.cross is not None else None
            for block in self.blocks
        )
        pictures = tuple(block.look_at(seen) if self.looking else {} for block in self.blocks)
        return Context(sum(added[1:], added[0]) if added else None, memory, pictures, given)

    def forward(self, image: Tensor, context: Context | None = None) -> Tensor:
        reaches = self.reaches(list(self.tiled), [self.mixing] * self.config.depth)
        return self.slots(image, slice(None), reaches, context or self.read({}))

    def schedule(self, known: BoolArray | None = None) -> Schedule:
        if known is None or not known.any():
            return self._free_schedule
        return as_early_as_possible(self.sights, self.inputs, self.layout, known)

    @cached_property
    def _free_schedule(self) -> Schedule:
        return as_early_as_possible(self.sights, self.inputs, self.layout)

    def decoder(self, context: Context, batch: int, schedule: Schedule, *, prefilled: bool = False) -> CachedDecoder:
        return CachedDecoder(self, context, batch, schedule, prefilled)

    def pass_bytes(self, positions: int) -> int:
        config, size = self.config, next(self.parameters()).element_size()
        kept = 6 * config.width + 3 * config.feed_forward + 4 * config.heads * config.head_width  # in a layer
        states = sum(encoder.num_states for encoder in self.encoders.values())
        placed = sum(reader.num_states for reader in self.placed.values())
        memory = states * config.heads * (2 * config.depth * config.head_width + 2 * (positions + states))
        for reader in self.placed.values() if self.looking else ():
            scores = 2 * positions * min(reader.num_states, reader.num_seen)
            memory += config.heads * (2 * config.depth * config.head_width * reader.num_states + scores)
        return ((positions + placed) * kept + memory) * size


def joined(parts: Sequence[Memory]) -> Memory:
    """Several memories as one."""
    if len(parts) == 1:
        return parts[0]
    there = [
        one.keys.new_ones(len(one.keys), 1, 1, one.keys.shape[2], dtype=torch.bool) if one.there is None else one.there
        for one in parts
    ]
    keys, values = torch.cat([one.keys for one in parts], 2), torch.cat([one.values for one in parts], 2)
    return Memory(keys, values, None if all(one.there is None for one in parts) else torch.cat(there, -1))
