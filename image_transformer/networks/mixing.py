"""Mixing of neighbours: each state plus a weighted sum of those at the nearest generated pixels, channel by channel.

A causal depthwise convolution of a few taps, over the places of the image rather than the positions of the sequence. It
gives a layer at no cost in products what attention would have to learn: who is next to whom.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import pad

from image_transformer.geometry.order import Layout
from image_transformer.geometry.patterns import Near
from image_transformer.geometry.schedule import Schedule, cache_plan

Mix = Callable[[Tensor, Tensor], Tensor]  # (b, l, d) states, (n, d) weights -> (b, l, d)


class Mixing(nn.Module):
    """The mixing of a whole image."""

    sources: Tensor  # which state each position takes at each offset, (n, l): the last one, a zero, if there is none
    targets: Tensor  # and back

    def __init__(self, near: Near, layout: Layout) -> None:
        super().__init__()
        sources = near.table(layout)
        targets = np.full_like(sources, -1)
        for back, at in zip(targets, sources, strict=True):
            back[at[at >= 0]] = np.flatnonzero(at >= 0)
        for name, table in (("sources", sources), ("targets", targets)):
            table = np.where(table >= 0, table, layout.num_positions)
            self.register_buffer(name, torch.from_numpy(table), persistent=False)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        mixed: Tensor = _Mix.apply(x, weight.to(x.dtype), self.sources, self.targets)
        return mixed


class _Mix(torch.autograd.Function):
    """x[l] + sum_n weight[n] x[sources[n, l]]. The way back is the same with `targets`: nothing is added by index."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, sources, targets)
        return _mixed(x, _with_zero(x), weight, sources)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, sources, targets = ctx.saved_tensors
        states = _with_zero(x)
        by_weight = [(grad * states.index_select(1, at)).sum((0, 1)) for at in sources]
        return _mixed(grad, _with_zero(grad), weight, targets), torch.stack(by_weight), None, None


def _mixed(x: Tensor, states: Tensor, weight: Tensor, sources: Tensor) -> Tensor:
    """`x` (b, l, d) plus the weighted sum of the `states` (b, m, d) at `sources` (n, l)."""
    out = x.clone()
    for at, its in zip(sources, weight, strict=True):
        out.addcmul_(states.index_select(1, at), its)
    return out


def _with_zero(x: Tensor) -> Tensor:
    """States `(b, l, d)` and, last, what is mixed in where there is no neighbour."""
    return pad(x, (0, 0, 0, 1))


class MixingCache:
    """The states of exactly those past positions that later ones still mix in, for every layer."""

    def __init__(
        self,
        near: Near,
        layers: int,
        layout: Layout,
        schedule: Schedule,
        batch: int,
        width: int,
        *,
        prefilled: bool = False,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        plan = cache_plan(near, layout, schedule, prefilled)
        slots, table = plan.allowed.shape[1], near.table(layout)
        self._slot = torch.from_numpy(plan.slot).to(device)
        self._sources = torch.from_numpy(np.where(table >= 0, plan.slot[table], slots)).to(device)  # (n, l)
        kept = np.flatnonzero((plan.slot >= 0) & (schedule.step == 0))
        self._prefilled = torch.from_numpy(kept).to(device)
        self.states = torch.zeros(layers, batch, slots + 1, width, device=device, dtype=dtype)  # the last slot: none

    @property
    def num_bytes(self) -> int:
        return self.states.numel() * self.states.element_size()

    def store(self, layer: int, x: Tensor) -> None:
        """Of the states `(b, l, d)` of a whole image, take those of step 0 that later steps see."""
        self._write(layer, self._slot[self._prefilled], x[:, self._prefilled])

    def mixes(self, at: Tensor) -> list[Mix]:
        """One `Mix` a layer for the positions `at` `(f,)`: it stores their states, then mixes."""
        slot, sources = self._slot[at], self._sources[:, at]

        def mix_in(layer: int) -> Mix:
            def mix(x: Tensor, weight: Tensor) -> Tensor:
                self._write(layer, slot, x)
                return _mixed(x, self.states[layer], weight, sources)

            return mix

        return [mix_in(layer) for layer in range(len(self.states))]

    def _write(self, layer: int, slot: Tensor, x: Tensor) -> None:
        self.states[layer].index_copy_(1, slot, x.to(self.states.dtype))
