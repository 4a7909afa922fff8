"""Local attention on full tiles, and the key/value cache: the arithmetic behind the patterns of `patterns.py`.

Both give a network's layers an `Attend`: queries, keys and values in, attended values out. The layers do not know
whether they see a whole image (`TiledAttention`) or the next position (`KVCache`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from image_transformer.order import IntArray, Layout
from image_transformer.patterns import Pattern, cache_plan, tiles

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # (b, a, l, e) queries, keys, values -> (b, a, l, e)


class _Gather(nn.Module):
    """Cuts `(b, a, l, e)` into `(b, a * n, m, e)`, by views where the table `(n, m)` of positions is regular."""

    index: Tensor

    def __init__(self, table: IntArray) -> None:
        super().__init__()
        self.shape = table.shape
        steps = np.diff(table[:, 0])
        regular = (np.diff(table) == 1).all() and (len(steps) == 0 or (steps == steps[0]).all())
        self.start = int(table[0, 0])
        self.stop = int(table[-1, -1]) + 1
        self.step = int(steps[0]) if len(steps) else table.shape[1]
        self.is_window = bool(regular and self.step > 0)
        self.register_buffer("index", torch.from_numpy(table.reshape(-1).copy()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, a, _, e = x.shape
        n, m = self.shape
        if not self.is_window:
            return x.index_select(2, self.index).view(b, a * n, m, e)
        if m % self.step == 0:  # n windows of strips that start a step apart: faster to differentiate than unfold
            starts = range(self.start, self.start + m, self.step)
            strips = [x[:, :, s : s + n * self.step].unflatten(2, (n, self.step)) for s in starts]
            return (strips[0] if len(strips) == 1 else torch.cat(strips, 3)).flatten(1, 2)
        return x[:, :, self.start : self.stop].unfold(2, m, self.step).transpose(-1, -2).flatten(1, 2)


class TiledAttention(nn.Module):
    """Attention of all positions of an image under a pattern: dense calls on full tiles, never an l x l mask.

    The tiles are derived from `pattern.sees`; see `patterns.tiles`. Called with queries, keys and values
    `(b, a, l, e)`, already scaled or normalised as the layer likes; `scale` multiplies the products.
    """

    restore: Tensor

    def __init__(self, pattern: Pattern, layout: Layout) -> None:
        super().__init__()
        groups = tiles(pattern, layout)
        self.queries = nn.ModuleList(_Gather(group.queries) for group in groups)
        self.keys = nn.ModuleList(_Gather(group.keys) for group in groups)
        self.causal = [_is_triangle(group.allowed) for group in groups]
        for i, group in enumerate(groups):
            if not self.causal[i]:
                self.register_buffer(f"allowed_{i}", torch.from_numpy(group.allowed), persistent=False)
        computed = np.concatenate([group.queries.reshape(-1) for group in groups])
        self.in_order = bool((np.diff(computed) == 1).all())
        self.register_buffer("restore", torch.from_numpy(np.argsort(computed)), persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, a = q.shape[:2]
        parts = []
        for i, (queries, keys) in enumerate(zip(self.queries, self.keys, strict=True)):
            allowed = None if self.causal[i] else getattr(self, f"allowed_{i}")
            part = scaled_dot_product_attention(queries(q), keys(k), keys(v), allowed, is_causal=self.causal[i])
            parts.append(part.unflatten(1, (a, -1)).flatten(2, 3))  # (b, a, n * m, e)
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        return out if self.in_order else out.index_select(2, self.restore)


def _is_triangle(allowed: np.ndarray) -> bool:
    return allowed.shape[0] == allowed.shape[1] and bool((allowed == np.tri(len(allowed), dtype=np.bool_)).all())


class KVCache:
    """Keys and values of exactly those past positions that later ones can still see, for every layer.

    Its size depends on the patterns alone, not on the image (see `patterns.cache_plan`). One cache serves one
    batch: `attends(at)` gives the layers their attention for positions `at`, which must come in generation order.
    """

    def __init__(
        self,
        patterns: Sequence[Pattern],
        layout: Layout,
        batch: int,
        heads: int,
        head_width: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.patterns = tuple(patterns)
        plans = {pattern: cache_plan(pattern, layout) for pattern in self.patterns}
        self._slot = {pattern: torch.from_numpy(plan.slot).to(device) for pattern, plan in plans.items()}
        self._allowed = {pattern: torch.from_numpy(plan.allowed).to(device) for pattern, plan in plans.items()}
        sizes = [(batch, heads, plans[pattern].allowed.shape[1], head_width) for pattern in self.patterns]
        self.keys = [torch.zeros(size, device=device, dtype=dtype) for size in sizes]
        self.values = [torch.zeros(size, device=device, dtype=dtype) for size in sizes]

    @property
    def num_bytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in self.keys + self.values)

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Take the keys and values `(b, a, l, e)` of the first l positions, so far as any later one can see them."""
        slot = self._slot[self.patterns[layer]].cpu().numpy()
        holder = np.full(self.keys[layer].shape[2], -1)
        holder[slot[: k.shape[2]]] = np.arange(k.shape[2])  # of the positions that shared a slot, the last
        slots = torch.from_numpy(np.flatnonzero(holder >= 0)).to(k.device)
        positions = torch.from_numpy(holder[holder >= 0]).to(k.device)
        self.keys[layer][:, :, slots] = k[:, :, positions].to(self.keys[layer].dtype)
        self.values[layer][:, :, slots] = v[:, :, positions].to(self.values[layer].dtype)

    def attends(self, at: Tensor) -> list[Attend]:
        """One `Attend` a layer for the positions `at` `(f,)`: it stores their keys and values, then attends."""
        slot = {pattern: table[at] for pattern, table in self._slot.items()}
        allowed = {pattern: table[at] for pattern, table in self._allowed.items()}

        def attend_in(layer: int, pattern: Pattern) -> Attend:
            def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                self.keys[layer].index_copy_(2, slot[pattern], k.to(self.keys[layer].dtype))
                self.values[layer].index_copy_(2, slot[pattern], v.to(self.values[layer].dtype))
                keys, values = self.keys[layer], self.values[layer]
                return scaled_dot_product_attention(q, keys, values, allowed[pattern])

            return attend

        return [attend_in(layer, pattern) for layer, pattern in enumerate(self.patterns)]
