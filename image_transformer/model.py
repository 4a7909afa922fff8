"""The Image Transformer: a family's network, its layout and its likelihood behind one exact interface."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from image_transformer.attention import Attend, KVCache, TiledAttention
from image_transformer.config import ModelConfig
from image_transformer.likelihood import Categorical, ChainedCategorical, DiscretizedLogisticMixture, Likelihood
from image_transformer.modern import ModernTransformer
from image_transformer.order import layout
from image_transformer.paper import PaperTransformer
from image_transformer.schedule import Schedule, as_early_as_possible


class ImageTransformer(nn.Module):
    """An autoregressive model of uint8 images (b, c, h, w) with an exact likelihood.

    >>> model = ImageTransformer(ModelConfig())
    >>> nats = model.log_prob(images)            # (b, c, h, w): every sub-pixel given all earlier ones
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.likelihood = _likelihood(config)
        self.layout = layout(config.order, config.shape, self.likelihood.sub_pixels)
        network = PaperTransformer if config.family == "paper" else ModernTransformer
        self.network = network(config, self.layout, self.likelihood)
        patterns = config.patterns
        self._groups = config.heads // (config.kv_heads or config.heads)
        tiled = {pattern: TiledAttention(pattern, self.layout, self._groups) for pattern in patterns}
        self.tiled = nn.ModuleList(tiled[pattern] for pattern in patterns)  # layers of one pattern share its tables
        self.register_buffer("values", torch.from_numpy(self.layout.values), persistent=False)
        restore = torch.from_numpy(self.layout.values.reshape(-1).argsort())
        self.register_buffer("restore", restore, persistent=False)

    values: Tensor  # flat places in the image of each position's values, (l, v)
    restore: Tensor  # and back: which position's value lies at each place of the image

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def forward(self, image: Tensor) -> Tensor:
        """Distribution parameters `(b, l, p)` of all positions in one pass, each from the values before it."""
        return self.network(image, slice(None), list(self.tiled))

    def log_prob(self, images: Tensor) -> Tensor:
        """Log-probability in nats of every sub-pixel given all earlier ones, float32 (b, c, h, w).

        Exact: its sum over an image is the image's log-likelihood. `images` is uint8 (b, c, h, w); ValueError if not.
        """
        check_images(images, self.config.shape)
        images = images.to(self.device)
        values = images.flatten(1)[:, self.values]  # (b, l, v)
        params = self(images)
        with torch.autocast(images.device.type, enabled=False):
            nats = self.likelihood.log_prob(params, values)
        return nats.flatten(1)[:, self.restore].view(images.shape)

    def schedule(self, known: NDArray[np.bool_] | None = None) -> Schedule:
        """What is generated in which step: together whose values cannot reach each other. See `as_early_as_possible`.

        known: positions `(l,)` whose values are given.
        """
        if known is None or not known.any():
            return self._free_schedule
        return as_early_as_possible(self.config.patterns, self.network.inputs, self.layout, known)

    @cached_property
    def _free_schedule(self) -> Schedule:
        return as_early_as_possible(self.config.patterns, self.network.inputs, self.layout)

    def new_cache(self, batch: int, schedule: Schedule | None = None, *, prefilled: bool = False) -> KVCache:
        """An empty cache for generating `batch` images step by step, with `decode_step`, or after a `prefill`."""
        config = self.config
        return KVCache(
            config.patterns, self.layout, schedule or self.schedule(), batch, config.heads, config.head_width,
            groups=self._groups, prefilled=prefilled, device=self.device, dtype=self.dtype,
        )  # fmt: skip

    def decode_step(self, image: Tensor, at: Tensor, cache: KVCache) -> Tensor:
        """Parameters `(b, f, p)` of the positions `at` (f,) alone; the cache must have seen all steps before."""
        return self.network(image, at, cache.attends(at))

    def prefill(self, image: Tensor, cache: KVCache) -> Tensor:
        """Compute step 0 in one pass and fill the cache with it; parameters `(b, l, p)`, right for step 0 alone."""
        attends = [self._storing(tiled, layer, cache) for layer, tiled in enumerate(self.tiled)]
        return self.network(image, slice(None), attends)

    @staticmethod
    def _storing(tiled: nn.Module, layer: int, cache: KVCache) -> Attend:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.store(layer, k, v)
            return tiled(q, k, v)

        return attend


def _likelihood(config: ModelConfig) -> Likelihood:
    if config.likelihood == "categorical":
        return Categorical()
    if config.likelihood == "dmol":
        return DiscretizedLogisticMixture(config.components)
    return ChainedCategorical(config.shape[0], max(1, config.width // 2))


def check_images(images: Tensor, shape: tuple[int, int, int]) -> None:
    """ValueError, saying what was expected and what came, unless `images` is uint8 of (b, *shape)."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        came = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must be a torch.uint8 tensor of values 0..255, got {came}")
    if images.dim() != 4 or tuple(images.shape[1:]) != shape:
        expected = ", ".join(map(str, shape))
        raise ValueError(f"images must have shape (b, {expected}) for this model, got {tuple(images.shape)}")
