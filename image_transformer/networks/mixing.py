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
        return mixed(x, _with_zero(x), weight, sources)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, sources, targets = ctx.saved_tensors
        states = _with_zero(x)
        by_weight = [(grad * states.index_select(1, at)).sum((0, 1)) for at in sources]
        return mixed(grad, _with_zero(grad), weight, targets), torch.stack(by_weight), None, None


def mixed(x: Tensor, states: Tensor, weight: Tensor, sources: Tensor) -> Tensor:
    """`x` (b, l, d) plus the weighted sum of the `states` (b, m, d) at `sources` (n, l)."""
    out = x.clone()
    for at, its in zip(sources, weight, strict=True):
        out.addcmul_(states.index_select(1, at), its)
    return out


def _with_zero(x: Tensor) -> Tensor:
    """States `(b, l, d)` and, last, what is mixed in where there is no neighbour."""
    return pad(x, (0, 0, 0, 1))
