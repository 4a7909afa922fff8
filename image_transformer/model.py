"""The model: a network, a layout, a likelihood and its conditions behind one exact interface."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from image_transformer.conditions.base import Given
from image_transformer.conditions.limits import BoxLimits
from image_transformer.config.model import ModelConfig, Modern, Paper
from image_transformer.config.rivals import GatedPixelCNN, Megabyte, PixelCNN, PixelCNNpp, PixelRNN
from image_transformer.data.images import ImageData, check_images
from image_transformer.geometry.order import layout
from image_transformer.geometry.patterns import BoolArray
from image_transformer.geometry.schedule import Schedule
from image_transformer.likelihoods.base import Likelihood
from image_transformer.likelihoods.categorical import Categorical
from image_transformer.likelihoods.chained import ChainedCategorical
from image_transformer.likelihoods.dmol import DiscretizedLogisticMixture
from image_transformer.networks import megabyte, pixelcnn, pixelcnnpp, pixelrnn
from image_transformer.networks.base import Network
from image_transformer.networks.modern import ModernTransformer
from image_transformer.networks.paper import PaperTransformer

NETWORKS: dict[type[ModelConfig], Callable[..., Network]] = {
    Paper: PaperTransformer,
    Modern: ModernTransformer,
    PixelRNN: pixelrnn.PixelRNN,
    PixelCNN: pixelcnn.PixelCNN,
    GatedPixelCNN: pixelcnn.GatedPixelCNN,
    PixelCNNpp: pixelcnnpp.PixelCNNpp,
    Megabyte: megabyte.Megabyte,
}
LIKELIHOODS: dict[str, Callable[[ModelConfig], Likelihood]] = {
    "categorical": lambda c: Categorical(c.temperature),
    "dmol": lambda c: DiscretizedLogisticMixture(c.components, c.shape[0], c.min_log_scale, c.temperature),
    "chained": lambda c: ChainedCategorical(c.shape[0], max(1, c.width // 2), c.min_log_scale, c.temperature),
}


class ImageModel(nn.Module):
    """An autoregressive model of uint8 images (b, c, h, w) with an exact likelihood.

    What it is told of an image goes by name, such as `label=` or `low=`: see `config.conditions`.

    >>> model = it.ImageModel(it.Modern(shape=(3, 8, 8), depth=1, width=16, heads=2))
    >>> model.log_prob(images).shape            # nats of every sub-pixel given all earlier ones
    torch.Size([2, 3, 8, 8])
    """

    values: Tensor  # flat places in the image of each position's values, (l, v)
    restore: Tensor  # and back: which position's value lies at each place of the image

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        for condition in config.conditions:
            if condition.open:
                raise ValueError(f"model.conditions: {condition.open}")
        self.config = config
        self.likelihood = LIKELIHOODS[config.likelihood](config)
        self.layout = layout(config.order, config.shape, self.likelihood.sub_pixels)
        kind = next((kind for kind in type(config).__mro__ if kind in NETWORKS), None)
        if kind is None:
            known = ", ".join(one.__name__ for one in NETWORKS)
            raise ValueError(f"there is no network for a {type(config).__name__}, only for {known}")
        self.network = NETWORKS[kind](config, self.layout, self.likelihood)
        self.register_buffer("values", torch.from_numpy(self.layout.values), persistent=False)
        restore = torch.from_numpy(self.layout.values.reshape(-1).argsort())
        self.register_buffer("restore", restore, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    # ---- what it is told ----

    def given(self, count: int, told: Mapping[str, Any], follow: Collection[str] = ()) -> dict[str, Any]:
        """The conditions of `count` images as tensors, batch first, from what a user `told` of them, checked.

        follow: names of conditions that need not be told. ValueError if another one is missing, one that the model does
        not know is told, or one is of the wrong kind, shape or range.
        """
        told = {name: value for name, value in told.items() if value is not None}
        names = [condition.name for condition in self.config.conditions]
        for name in told:
            if name not in names:
                raise ValueError(f"this model is not conditional on {name}, but {name}= was given")
        for condition in self.config.conditions:
            if condition.name not in told and condition.name not in follow:
                wanted = condition.wanted(self.config.shape)
                raise ValueError(f"this model is conditional: {condition.name}= is missing ({wanted})")
        return {
            condition.name: condition.check(told[condition.name], count, self.config.shape)
            for condition in self.config.conditions
            if condition.name in told
        }

    @property
    def following(self) -> list[str]:
        """The names of conditions that follow from an image itself."""
        return [condition.name for condition in self.config.conditions if condition.follows]

    @property
    def untold(self) -> list[str]:
        """The names of conditions that do not: scoring an image must be told them."""
        return [condition.name for condition in self.config.conditions if not condition.follows]

    def of(self, data: ImageData, only: Collection[str] | None = None) -> dict[str, Any]:
        """What `data` says of its images: the conditions, or those named in `only`, as tensors, batch first."""
        told = [one for one in self.config.conditions if only is None or one.name in only]
        return {one.name: one.of(data) for one in told}

    def varied(self, data: ImageData, draws: Sequence[int]) -> dict[str, Any]:
        """What training sees of `data`, as `of`; `draws` are 63 random bits for each image."""
        return {one.name: one.varied(data, draws) for one in self.config.conditions}

    def without(self, given: Given) -> dict[str, Any]:
        """The conditions with all that can be left unsaid left unsaid; ValueError if there is no such condition."""
        empty = {one.name: one.nothing(given[one.name]) for one in self.config.conditions}
        unsaid = {name: value for name, value in empty.items() if value is not None}
        if not unsaid:
            raise ValueError(
                "guidance= is for models that can be told nothing, as text-conditional ones can: not this one"
            )
        return {**given, **unsaid}

    def limits(self, given: Given) -> BoxLimits:
        """The bounds that the conditions put on the values of images; ValueError if they put none."""
        for condition in self.config.conditions:
            found = condition.limits(given[condition.name].to(self.device), self.layout)
            if found is not None:
                return found
        raise ValueError("consistent= is for super-resolution: this model is not given a low-resolution image")

    def read(self, given: Given) -> Any:
        """What the network makes of conditions, once for all positions."""
        return self.network.read({name: value.to(self.device) for name, value in given.items()})

    # ---- what it says ----

    def forward(self, image: Tensor, given: Given | None = None) -> Tensor:
        """Distribution parameters `(b, l, p)` of all positions in one pass, each from the values before it."""
        params: Tensor = self.network(image, self.read(given or {}))
        return params

    def log_prob(self, images: Tensor, *, consistent: bool = False, **told: Any) -> Tensor:
        """Log-probability in nats of every sub-pixel given all earlier ones, (b, c, h, w), as precise as the model.

        Exact: its sum over an image is the image's log-likelihood. `images` is uint8 (b, c, h, w).
        consistent: of the model whose box means are `low` by construction: values that would make a mean impossible
        have no probability, the others are renormalised; -inf for images of other means.
        told: what the model is told of the images, by name, as in `generate`. ValueError if something does not fit.
        """
        check_images(images, self.config.shape)
        return self.score(images, self.given(len(images), told), consistent)

    def score(self, images: Tensor, given: Given, consistent: bool = False, seen: Tensor | None = None) -> Tensor:
        """`log_prob` for conditions that were checked already; no device is waited for.

        seen: what the network sees in the place of the images, as in training with noise.
        """
        images = images.to(self.device)
        values = images.flatten(1)[:, self.values]  # (b, l, v)
        limits = self.limits(given) if consistent else None
        params = self(images if seen is None else seen, given)
        with torch.autocast(images.device.type, enabled=False):
            nats = self.likelihood.log_prob(params, values)
            if limits is not None:
                nats = nats - self._log_possible(params, values, *limits.of_images(images))
        return nats.flatten(1)[:, self.restore].view(images.shape)

    def _log_possible(self, params: Tensor, values: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        """The log-mass `(b, l, v)` of the values between the bounds `(b, dims)`; +inf where the true one is not."""
        lowest, highest = lowest[:, self.values], highest[:, self.values]
        possible = (values >= lowest) & (values <= highest)
        highest = highest.maximum(lowest)  # no value at all may be possible in an image of other means
        masses = [
            self.likelihood.log_mass_within(params, values[..., :i], lowest[..., i], highest[..., i])
            for i in range(values.shape[-1])
        ]
        return torch.where(possible, torch.stack(masses, -1), torch.inf)

    def schedule(self, known: BoolArray | None = None) -> Schedule:
        """Which positions are generated in each step: those that cannot reach each other share one.

        known: positions `(l,)` that are given.
        """
        return self.network.schedule(known)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout, noise and gradients; afterwards the model is in the mode in which it was."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)
