"""What a network is told about an image beside its own values: its class, its low-resolution image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Context:
    """What a network has read of the conditions of a batch of images, once for all positions and layers.

    label: what the class adds to every position, `(b, 1, d)`. low: the low-resolution images, uint8
    `(b, c, h / f, w / f)`. memory: keys and values `(b, a, m, e)` of the encoded low-resolution image, for each layer.
    """

    label: Tensor | None = None
    low: Tensor | None = None
    memory: tuple[tuple[Tensor, Tensor], ...] = ()


NO_CONTEXT = Context()
