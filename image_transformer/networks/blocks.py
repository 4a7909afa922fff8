"""The blocks of the modern family: pre-norm, rotary positions, gated feed-forward layers; what else they attend to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import relu, rms_norm, silu

from image_transformer.config.model import Modern
from image_transformer.networks.attention import Attend, full_attention
from image_transformer.networks.noise import Dropout
from image_transformer.networks.transformer import KeysAndValues, Memory, Reach

Rotation = tuple[Tensor, Tensor]  # cosines and sines
Picture = tuple[Tensor, Tensor, Attend]  # the keys and values of its pixels, and how positions attend to them


def all_heads(q: Tensor, k: Tensor, v: Tensor, there: Tensor | None = None) -> Tensor:
    """Attention to all that is `there`, `(b, 1, 1, m)`; several heads of queries may share one of keys and values."""
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


def norm(x: Tensor) -> Tensor:
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
            x = x + self.drop_attention(self.attention(norm(x), rotate, reach.attend))
        if self.cross is not None and memory is not None:
            attend = partial(full_attention, there=memory.there)
            x = x + self.drop_cross(self.cross(norm(x), asking or rotate, memory.keys, memory.values, attend))
        for name, picture in pictures.items():
            x = x + self.drop_looks[name](self.looks[name](norm(x), rotate, *picture))
        seen = norm(x)
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
        q = _rotate(norm(q), rotate) * self.gain.to(q.dtype)
        k = _rotate(norm(k), rotate)
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
        return _rotate(norm(k), rotate), v

    def forward(self, x: Tensor, rotate: Rotation, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q = _rotate(norm(q), rotate) * self.gain.to(q.dtype)
        return self.output(attend(q, k, v).transpose(1, 2).flatten(2))
