"""The key/value cache: keys and values of exactly those past positions that later ones can still see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from image_transformer.geometry.order import Layout
from image_transformer.geometry.patterns import Pattern
from image_transformer.geometry.schedule import Schedule, cache_plan
from image_transformer.networks.attention import Attend


class KVCache:
    """Keys and values of exactly those past positions that later ones can still see, for every layer.

    Its size follows from the patterns and the schedule, see `schedule.cache_plan`; it is allocated once and written in
    place. One cache serves one batch: `attends(at)` gives the layers their attention for the positions of one step.
    """

    def __init__(
        self,
        patterns: Sequence[Pattern],
        layout: Layout,
        schedule: Schedule,
        batch: int,
        heads: int,
        head_width: int,
        *,
        groups: int = 1,
        prefilled: bool = False,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.patterns, self.groups = tuple(patterns), groups
        plans = {pattern: cache_plan(pattern, layout, schedule, prefilled) for pattern in dict.fromkeys(patterns)}
        self._slot = {pattern: torch.from_numpy(plan.slot).to(device) for pattern, plan in plans.items()}
        self._allowed = {pattern: torch.from_numpy(plan.allowed).to(device) for pattern, plan in plans.items()}
        kept = {pattern: np.flatnonzero((plan.slot >= 0) & (schedule.step == 0)) for pattern, plan in plans.items()}
        self._prefilled = {pattern: torch.from_numpy(positions).to(device) for pattern, positions in kept.items()}
        sizes = [(batch, heads // groups, plans[pattern].allowed.shape[1], head_width) for pattern in patterns]
        self.keys = [torch.zeros(size, device=device, dtype=dtype) for size in sizes]
        self.values = [torch.zeros(size, device=device, dtype=dtype) for size in sizes]

    @property
    def num_bytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in self.keys + self.values)

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Of the keys and values `(b, a, l, e)` of a whole image, take those of step 0 that later steps see."""
        positions = self._prefilled[self.patterns[layer]]
        self._write(layer, self._slot[self.patterns[layer]][positions], k[:, :, positions], v[:, :, positions])

    def attends(self, at: Tensor) -> list[Attend]:
        """One `Attend` a layer for the positions `at` `(f,)`: it stores their keys and values, then attends."""
        slot = {pattern: table[at] for pattern, table in self._slot.items()}
        allowed = {pattern: table[at].repeat(self.groups, 1) for pattern, table in self._allowed.items()}

        def attend_in(layer: int, pattern: Pattern) -> Attend:
            def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                self._write(layer, slot[pattern], k, v)
                together = q.unflatten(1, (-1, self.groups)).flatten(2, 3)  # heads that share keys, as more queries
                out = scaled_dot_product_attention(together, self.keys[layer], self.values[layer], allowed[pattern])
                return out.reshape(q.shape)

            return attend

        return [attend_in(layer, pattern) for layer, pattern in enumerate(self.patterns)]

    def _write(self, layer: int, slot: Tensor, k: Tensor, v: Tensor) -> None:
        self.keys[layer].index_copy_(2, slot, k.to(self.keys[layer].dtype))
        self.values[layer].index_copy_(2, slot, v.to(self.values[layer].dtype))
