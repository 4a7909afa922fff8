"""Local attention on full tiles: the arithmetic behind the patterns of `geometry/patterns.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from image_transformer.geometry.order import IntArray, Layout
from image_transformer.geometry.patterns import Around, Sight, tiles

CHUNK = 2**20  # attention scores that are worked on at once on a CPU: 2 MB in bfloat16
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # (b, a, l, e) queries, keys, values -> (b, a, l, e)


class _Gather(nn.Module):
    """Cuts `(b, a, l, e)` into `(b, a, n, m, e)`, by views where the table `(n, m)` of positions is regular."""

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
        n, m = self.shape
        if not self.is_window:
            return x.index_select(2, self.index).unflatten(2, (n, m))
        if m % self.step == 0:  # n windows of strips that start a step apart: faster to differentiate than unfold
            starts = range(self.start, self.start + m, self.step)
            strips = [x[:, :, s : s + n * self.step].unflatten(2, (n, self.step)) for s in starts]
            return strips[0] if len(strips) == 1 else torch.cat(strips, 3)
        return x[:, :, self.start : self.stop].unfold(2, m, self.step).transpose(-1, -2)


class TiledAttention(nn.Module):
    """Attention of all positions of an image under a pattern: dense calls on full tiles, masks no larger than they.

    The tiles are derived from `pattern.sees`; see `patterns.tiles`. Called with queries `(b, a, l, e)`, keys and values
    `(b, a / groups, l, e)`: that many consecutive heads of the queries share the keys and values of one.
    of_keys: the layout of keys and values, where it is not that of the queries.
    """

    restore: Tensor

    def __init__(self, pattern: Sight, layout: Layout, groups: int = 1, of_keys: Layout | None = None) -> None:
        super().__init__()
        self.groups = groups
        parts = tiles(pattern, layout, of_keys)
        self.queries = nn.ModuleList(_Gather(part.queries) for part in parts)
        self.keys = nn.ModuleList(_Gather(part.keys) for part in parts)
        self.causal = [groups == 1 and _is_triangle(part.allowed) for part in parts]
        for i, part in enumerate(parts):
            allowed = np.tile(part.allowed, (1, groups, 1))[None]  # (1, n or 1, m, k)
            self.register_buffer(f"allowed_{i}", torch.from_numpy(allowed), persistent=False)
        computed = np.concatenate([part.queries.reshape(-1) for part in parts])
        self.in_order = bool((np.diff(computed) == 1).all())
        self.register_buffer("restore", torch.from_numpy(np.argsort(computed)), persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, a, _, e = q.shape
        parts = []
        for i, (queries, keys) in enumerate(zip(self.queries, self.keys, strict=True)):
            # heads as batch, blocks as heads: one mask (n, m, k) serves all images and heads
            tile_q, tile_k, tile_v = queries(q), keys(k).flatten(0, 1), keys(v).flatten(0, 1)
            n, m = tile_q.shape[2:4]
            own = a // self.groups
            tile_q = tile_q.unflatten(1, (own, self.groups)).transpose(2, 3).reshape(b * own, n, self.groups * m, e)
            part = _attention(tile_q, tile_k, tile_v, getattr(self, f"allowed_{i}"), self.causal[i])
            part = part.view(b, own, n, self.groups, m, e).transpose(2, 3).reshape(b, a, n * m, e)
            parts.append(part)
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        return out if self.in_order else out.index_select(2, self.restore)


class Look(nn.Module):
    """Attention of the positions of an image to the pixels of a picture that is given: those `Around`, or all.

    The positions of a whole image look by tiles. Those of one step ask all pixels and mask the others out: a gather of
    each one's own is several times slower up to 64 x 64 pixels, and as fast at 128 x 128.
    """

    row: Tensor
    seen: Tensor

    def __init__(self, pattern: Around | None, layout: Layout, picture: Layout) -> None:
        super().__init__()
        self.tiled = None if pattern is None else TiledAttention(pattern, layout, of_keys=picture)
        if pattern is not None:
            p = layout.positions
            _, first, row = np.unique(pattern.block(p), return_index=True, return_inverse=True)
            self.register_buffer("row", torch.from_numpy(row), persistent=False)
            seen = pattern.sees(p[first][:, None], picture.positions[None])  # (blocks, m)
            self.register_buffer("seen", torch.from_numpy(seen), persistent=False)

    def of(self, at: Tensor | slice) -> Attend:
        """The attention of the positions `at`: of some, or `slice(None)`."""
        if self.tiled is None:
            return full_attention
        if isinstance(at, slice):
            return self.tiled
        return partial(full_attention, there=self.seen[self.row[at]])


def full_attention(q: Tensor, k: Tensor, v: Tensor, there: Tensor | None = None) -> Tensor:
    """Attention of queries `(b, a, l, e)` to all of the keys and values `(b, a, m, e)` that are `there`.

    there: bool (b, 1, 1, m), False where a key is padding, or (l, m), where it is not to be seen; all are if not given.
    """
    k, v = k.to(q.dtype), v.to(q.dtype)
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        q, k, v = (x.transpose(0, 1).contiguous() for x in (q, k, v))  # heads as batch, images as tiles: (a, b, l, e)
        allowed = (
            torch.ones(1, 1, k.shape[2], dtype=torch.bool) if there is None else there.reshape(-1, *there.shape[-2:])
        )
        return cast(Tensor, _AttentionByChunks.apply(q, k, v, allowed)).transpose(0, 1)
    return scaled_dot_product_attention(q, k, v, there)


class _AttentionByChunks(torch.autograd.Function):
    """Attention of `(h, n, m, e)` queries, a few tiles at a time, so that their scores stay in the processor's cache.

    In bfloat16 on a CPU, where the fused form is slow, above all backwards. The weights of all tiles are kept for the
    backward pass: m k numbers a tile and head. allowed: `(n or 1, m, k)`.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
        q = q * q.shape[-1] ** -0.5
        bias = torch.zeros_like(allowed, dtype=q.dtype).masked_fill_(~allowed, -torch.inf)
        bias = bias.expand(q.shape[1], -1, -1)
        weights, out = q.new_empty(*q.shape[:-1], k.shape[-2]), torch.empty_like(q)
        for c in _chunks(weights.shape):
            scores = torch.matmul(q[c], k[c].transpose(-1, -2)).add_(bias[c[1]])
            torch.softmax(scores, -1, out=weights[c])
            torch.matmul(weights[c], v[c], out=out[c])
        ctx.save_for_backward(q, k, v, weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, weights = ctx.saved_tensors
        dq, dk, dv = map(torch.empty_like, (q, k, v))
        for c in _chunks(weights.shape):
            torch.matmul(weights[c].transpose(-1, -2), grad[c], out=dv[c])
            by_weight = torch.matmul(grad[c], v[c].transpose(-1, -2))
            by_score = torch._softmax_backward_data(by_weight, weights[c], -1, weights.dtype)
            torch.matmul(by_score, k[c], out=dq[c])
            torch.matmul(by_score.transpose(-1, -2), q[c], out=dk[c])
        return dq.mul_(q.shape[-1] ** -0.5), dk, dv, None


def _chunks(shape: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Slices of the first two axes of scores `(h, n, m, k)` that hold about `CHUNK` of them."""
    h, n, m, k = shape
    tall, wide = max(1, CHUNK // (n * m * k)), max(1, min(n, CHUNK // (m * k)))
    return ((slice(i, i + tall), slice(j, j + wide)) for i in range(0, h, tall) for j in range(0, n, wide))


def _attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, is_triangle: bool) -> Tensor:
    """Scaled dot-product attention, by the form that is fastest to train where it runs."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        return cast(Tensor, _AttentionByChunks.apply(q, k, v, allowed[0]))
    if is_triangle:
        return scaled_dot_product_attention(q, k, v, is_causal=True)
    return scaled_dot_product_attention(q, k, v, allowed)


def _is_triangle(allowed: np.ndarray) -> bool:
    _, m, k = allowed.shape
    return m == k and bool((allowed == np.tri(m, dtype=np.bool_)).all())
