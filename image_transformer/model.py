"""The Image Transformer: a family's network, its layout and its likelihood behind one exact interface."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from image_transformer.attention import Attend, KVCache, TiledAttention
from image_transformer.config import ModelConfig
from image_transformer.likelihood import Categorical, DiscretizedLogisticMixture, Likelihood
from image_transformer.modern import ModernTransformer
from image_transformer.order import layout
from image_transformer.paper import PaperTransformer


class ImageTransformer(nn.Module):
    """An autoregressive model of uint8 images (b, c, h, w) with an exact likelihood.

    >>> model = ImageTransformer(ModelConfig())
    >>> nats = model.log_prob(images)            # (b, c, h, w): every sub-pixel given all earlier ones
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.likelihood: Likelihood = (
            Categorical() if config.likelihood == "categorical" else DiscretizedLogisticMixture(config.components)
        )
        self.layout = layout(config.order, config.shape, self.likelihood.sub_pixels)
        network = PaperTransformer if config.family == "paper" else ModernTransformer
        self.network = network(config, self.layout, self.likelihood.num_params(self.layout.channels))
        patterns = config.patterns
        tiled = {pattern: TiledAttention(pattern, self.layout) for pattern in patterns}
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
        nats = self.likelihood.log_prob(self(images), values)
        return nats.flatten(1)[:, self.restore].view(images.shape)

    def new_cache(self, batch: int) -> KVCache:
        """An empty cache for generating `batch` images position by position with `decode_step`."""
        config = self.config
        return KVCache(
            config.patterns,
            self.layout,
            batch,
            config.heads,
            config.head_width,
            device=self.device,
            dtype=self.dtype,
        )

    def decode_step(self, image: Tensor, at: Tensor, cache: KVCache) -> Tensor:
        """Parameters `(b, f, p)` of the positions `at` (f,) alone; the cache must have seen all positions before."""
        return self.network(image, at, cache.attends(at))

    def prefill(self, image: Tensor, length: int, cache: KVCache) -> None:
        """Give the cache the first `length` positions of `image` in one pass."""
        attends = [self._storing(tiled, layer, length, cache) for layer, tiled in enumerate(self.tiled)]
        self.network(image, slice(None), attends)

    @staticmethod
    def _storing(tiled: nn.Module, layer: int, length: int, cache: KVCache) -> Attend:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.store(layer, k[:, :, :length], v[:, :, :length])
            return tiled(q, k, v)

        return attend


def check_images(images: Tensor, shape: tuple[int, int, int]) -> None:
    """ValueError, saying what was expected and what came, unless `images` is uint8 of (b, *shape)."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        came = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must be a torch.uint8 tensor of values 0..255, got {came}")
    if images.dim() != 4 or tuple(images.shape[1:]) != shape:
        expected = ", ".join(map(str, shape))
        raise ValueError(f"images must have shape (b, {expected}) for this model, got {tuple(images.shape)}")
