"""Drawing step by step: keys, values and states of exactly those past positions that later ones can still see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from image_transformer.geometry.patterns import Pattern, Sight
from image_transformer.geometry.schedule import Schedule, cache_plan
from image_transformer.networks.attention import Attend
from image_transformer.networks.mixing import Mix, mixed

if TYPE_CHECKING:
    from image_transformer.networks.transformer import Context, LocalTransformer


class CachedDecoder:
    """Step by step, each pass of the network on the positions of that step alone.

    keys, values: of each layer that attends, those of exactly the past positions that later ones can still see; states:
    of each layer, those that are still mixed in. Their size follows from the patterns and the schedule, see
    `schedule.cache_plan`; they are allocated once and written in place.
    """

    captured = True

    def __init__(
        self, network: LocalTransformer, context: Context, batch: int, schedule: Schedule, prefilled: bool
    ) -> None:
        self.network, self.context = network, context
        config, weight, near = network.config, next(network.parameters()), network.near
        plans = {sight: cache_plan(sight, network.layout, schedule, prefilled) for sight in network.sights}
        kept = {sight: np.flatnonzero((plan.slot >= 0) & (schedule.step == 0)) for sight, plan in plans.items()}
        self.kept = {sight: torch.from_numpy(places).to(weight.device) for sight, places in kept.items()}
        self.slot = {sight: torch.from_numpy(plan.slot).to(weight.device) for sight, plan in plans.items()}
        self.allowed = {
            p: torch.from_numpy(plans[p].allowed).to(weight.device) for p in dict.fromkeys(network.attending)
        }
        heads = config.heads // config.groups
        sizes = [(batch, heads, plans[p].allowed.shape[1], config.head_width) for p in network.attending]
        self.keys, self.values = ([weight.new_zeros(size) for size in sizes] for _ in range(2))
        self.states: list[Tensor] = []
        if near is not None:
            slots, table = plans[near].allowed.shape[1], near.table(network.layout)
            sources = np.where(table >= 0, plans[near].slot[table], slots)  # (n, l); the last slot: none
            self.sources = torch.from_numpy(sources).to(weight.device)
            self.states = [weight.new_zeros(batch, slots + 1, config.width) for _ in range(config.depth)]
        self.num_bytes = sum(held.nbytes for held in (*self.keys, *self.values, *self.states))

    def prefill(self, image: Tensor) -> Tensor:
        return self._pass(image, None)

    def step(self, image: Tensor, at: Tensor) -> Tensor:
        return self._pass(image, at)

    def _pass(self, image: Tensor, at: Tensor | None) -> Tensor:
        """Over the positions `at` of a step, or over the whole image: then what later steps see of step 0 is kept."""
        network, groups = self.network, self.network.config.groups
        slots = {sight: slot[self.kept[sight] if at is None else at] for sight, slot in self.slot.items()}
        allowed = {} if at is None else {p: table[at].repeat(groups, 1) for p, table in self.allowed.items()}
        sources = self.sources[:, at] if self.states and at is not None else None

        def keep(sight: Sight, held: Tensor, new: Tensor) -> None:  # (..., slots, d) and (..., l, d)
            new = new[..., self.kept[sight], :] if at is None else new
            held.index_copy_(-2, slots[sight], new.to(held.dtype))

        def attend_in(layer: int, pattern: Pattern) -> Attend:
            def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                keep(pattern, self.keys[layer], k)
                keep(pattern, self.values[layer], v)
                if at is None:
                    out: Tensor = network.tiled[layer](q, k, v)
                    return out
                together = q.unflatten(1, (-1, groups)).flatten(2, 3)  # heads that share keys, as more queries
                out = scaled_dot_product_attention(together, self.keys[layer], self.values[layer], allowed[pattern])
                return out.reshape(q.shape)

            return attend

        def mix_in(layer: int) -> Mix:
            def mix(x: Tensor, weight: Tensor) -> Tensor:
                assert network.near is not None and network.mixing is not None
                keep(network.near, self.states[layer], x)
                out: Tensor = (
                    network.mixing(x, weight) if sources is None else mixed(x, self.states[layer], weight, sources)
                )
                return out

            return mix

        attends = [attend_in(layer, pattern) for layer, pattern in enumerate(network.attending)]
        mixes = [mix_in(layer) if self.states else None for layer in range(network.config.depth)]
        return network.slots(image, slice(None) if at is None else at, network.reaches(attends, mixes), self.context)
