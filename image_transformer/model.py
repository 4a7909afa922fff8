"""The Image Transformer: a family's network, its layout and its likelihood behind one exact interface."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from numbers import Integral

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from image_transformer.config.model import ModelConfig, did_you_mean
from image_transformer.geometry.boxes import bounds, box_mean, place_of_box, places_in_boxes
from image_transformer.geometry.order import layout
from image_transformer.geometry.schedule import Schedule, as_early_as_possible
from image_transformer.likelihoods.dmol import Categorical, ChainedCategorical, DiscretizedLogisticMixture, Likelihood
from image_transformer.networks.attention import Attend, KVCache, TiledAttention
from image_transformer.networks.base import NO_CONTEXT, Context
from image_transformer.networks.modern import ModernTransformer
from image_transformer.networks.paper import PaperTransformer

Label = Tensor | Sequence[int | str] | int | str  # classes by number or name, one an image or one for all


class ImageTransformer(nn.Module):
    """An autoregressive model of uint8 images (b, c, h, w) with an exact likelihood.

    >>> model = ImageTransformer(ModelConfig())
    >>> nats = model.log_prob(images)            # (b, c, h, w): every sub-pixel given all earlier ones

    A class-conditional one is told `label=`, one for super-resolution `low=`; see `conditions`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.classes == ():
            raise ValueError("model.classes is empty: a class-conditional model needs the names of its classes")
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
        if config.factor:
            boxes = places_in_boxes(self.layout, config.factor)
            self.register_buffer("boxes", torch.from_numpy(boxes), persistent=False)
            box_of = torch.from_numpy(place_of_box(self.layout, config.factor))
            self.register_buffer("box_of", box_of, persistent=False)

    values: Tensor  # flat places in the image of each position's values, (l, v)
    restore: Tensor  # and back: which position's value lies at each place of the image
    boxes: Tensor  # super-resolution: flat places in the image of each box's values, in order, (boxes, factor^2)
    box_of: Tensor  # and the box of each flat place in the image

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def conditions(
        self, count: int, label: Label | None = None, low: Tensor | None = None, consistent: bool = False
    ) -> tuple[Tensor | None, Tensor | None]:
        """Class numbers `(count,)` int64 and low-resolution images, checked; None for what the model is not told.

        label: class numbers `(count,)`, a list of numbers or names, or one for all images. low: uint8
        `(count, c, h / f, w / f)`. ValueError if one that the model needs is missing, one that it does not know is
        given, or one is of the wrong kind, shape or range.
        """
        config = self.config
        if consistent and not config.factor:
            raise ValueError("consistent= is for super-resolution: this model is not given a low-resolution image")
        for name, given, wanted in (("label", label, config.classes), ("low", low, config.factor)):
            if wanted and given is None:
                what = (
                    f"one of {len(config.classes or ())} classes" if name == "label" else f"{config.low_shape} images"
                )
                raise ValueError(f"this model is conditional: {name}= is missing ({what})")
            if not wanted and given is not None:
                raise ValueError(f"this model is not conditional on {name}, but {name}= was given")
        if low is not None and config.low_shape:
            check_images(low, config.low_shape, "low")
            if len(low) != count:
                raise ValueError(f"low must hold {count} images, as many as there are, got {len(low)}")
        return None if label is None else class_numbers(label, count, config.classes or ()), low

    def low_of(self, images: Tensor) -> Tensor | None:
        """The low-resolution images that a model for super-resolution is told of uint8 `images` (b, c, h, w)."""
        return box_mean(images, self.config.factor) if self.config.factor else None

    def read(self, label: Tensor | None = None, low: Tensor | None = None) -> Context:
        """What the network is told of some images, read once for all positions; what `conditions` returns goes in."""
        return self.network.read(
            None if label is None else label.to(self.device), None if low is None else low.to(self.device)
        )

    def forward(self, image: Tensor, context: Context = NO_CONTEXT) -> Tensor:
        """Distribution parameters `(b, l, p)` of all positions in one pass, each from the values before it."""
        return self.network(image, slice(None), list(self.tiled), context)

    def log_prob(
        self,
        images: Tensor,
        *,
        label: Label | None = None,
        low: Tensor | None = None,
        consistent: bool = False,
    ) -> Tensor:
        """Log-probability in nats of every sub-pixel given all earlier ones, float32 (b, c, h, w).

        Exact: its sum over an image is the image's log-likelihood. `images` is uint8 (b, c, h, w); `label` and `low` as
        in `conditions`. ValueError if they do not fit.
        consistent: of the model whose box means are `low` by construction: values that would make a mean impossible
        have no probability, the others are renormalised; -inf for images of other means.
        """
        check_images(images, self.config.shape)
        return self.score(images, self.read(*self.conditions(len(images), label, low, consistent)), consistent)

    def score(self, images: Tensor, context: Context, consistent: bool = False) -> Tensor:
        """`log_prob` for conditions that were read already; nothing is checked, and no device waited for."""
        images = images.to(self.device)
        values = images.flatten(1)[:, self.values]  # (b, l, v)
        params = self(images, context)
        with torch.autocast(images.device.type, enabled=False):
            nats = self.likelihood.log_prob(params, values)
            if consistent and context.low is not None:
                nats = nats - self._log_possible(params, values, images, context.low)
        return nats.flatten(1)[:, self.restore].view(images.shape)

    def _log_possible(self, params: Tensor, values: Tensor, images: Tensor, low: Tensor) -> Tensor:
        """The log-mass `(b, l, v)` of the values that leave the box mean possible; +inf where the true one does not."""
        factor = self.config.factor or 1
        flat = images.flatten(1).long()
        in_boxes = flat[:, self.boxes]  # (b, boxes, n)
        left = torch.arange(factor**2 - 1, -1, -1, device=self.device)
        lowest, highest = bounds(low.flatten(1)[..., None], in_boxes.cumsum(-1) - in_boxes, left, factor)
        places = self.boxes.flatten().argsort()[self.values]  # of each position's values among the boxes' (l, v)
        lowest, highest = lowest.flatten(1)[:, places], highest.flatten(1)[:, places]
        possible = (values >= lowest) & (values <= highest)
        highest = highest.maximum(lowest)  # no value at all may be possible in an image of other means
        masses = [
            self.likelihood.log_mass_within(params, values[..., :i], lowest[..., i], highest[..., i])
            for i in range(values.shape[-1])
        ]
        return torch.where(possible, torch.stack(masses, -1), torch.inf)

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

    def decode_step(self, image: Tensor, at: Tensor, cache: KVCache, context: Context = NO_CONTEXT) -> Tensor:
        """Parameters `(b, f, p)` of the positions `at` (f,) alone; the cache must have seen all steps before."""
        return self.network(image, at, cache.attends(at), context)

    def prefill(self, image: Tensor, cache: KVCache, context: Context = NO_CONTEXT) -> Tensor:
        """Compute step 0 in one pass and fill the cache with it; parameters `(b, l, p)`, right for step 0 alone."""
        attends = [self._storing(tiled, layer, cache) for layer, tiled in enumerate(self.tiled)]
        return self.network(image, slice(None), attends, context)

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


def check_images(images: Tensor, shape: tuple[int, int, int], name: str = "images") -> None:
    """ValueError, saying what was expected and what came, unless `images` is uint8 of (b, *shape)."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        came = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"{name} must be a torch.uint8 tensor of values 0..255, got {came}")
    if images.dim() != 4 or tuple(images.shape[1:]) != shape:
        expected = ", ".join(map(str, shape))
        raise ValueError(f"{name} must have shape (b, {expected}) for this model, got {tuple(images.shape)}")


def class_numbers(label: Label, count: int, classes: Sequence[str]) -> Tensor:
    """Class numbers `(count,)` int64 for numbers or names of `classes`, one for each image or one for all.

    ValueError names the unknown class and the nearest known one.
    """
    if not classes:
        raise ValueError("this model is not conditional on label, but label= was given")
    given = label.tolist() if isinstance(label, Tensor | np.ndarray | np.generic) else label
    given = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given] * count
    if len(given) != count:
        raise ValueError(f"label must hold {count} classes, as many as there are images, got {len(given)}")
    return torch.tensor([_class_number(one, classes) for one in given], dtype=torch.int64)


def _class_number(label: int | str, classes: Sequence[str]) -> int:
    if isinstance(label, str):
        if label in classes:
            return classes.index(label)
        if not label.isdecimal():
            raise ValueError(f"unknown class {label!r}; {did_you_mean(label, classes)}")
    elif not isinstance(label, Integral):
        raise ValueError(f"label must hold whole numbers or names of classes, got {label!r}")
    if not 0 <= int(label) < len(classes):
        raise ValueError(f"unknown class {label}; the model knows {len(classes)}, 0 to {len(classes) - 1}")
    return int(label)
