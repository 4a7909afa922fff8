"""What a model asks of its network: the parameters of each position from earlier values, at once or step by step.

Nothing here knows how a network looks at an image. One that says no more than `forward` is drawn from by running it
again for every step.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from image_transformer.conditions.base import Condition, Given
from image_transformer.config.model import ModelConfig
from image_transformer.geometry.order import Layout
from image_transformer.geometry.patterns import BoolArray
from image_transformer.geometry.schedule import Schedule, front_by_front


class Decoder(Protocol):
    """The parameters of some positions of images in the making, step by step."""

    num_bytes: int  # what it holds from step to step
    captured: (
        bool  # whether `step` may be run twice, with repeated positions, on the tensors it holds alone: as a graph
    )

    def prefill(self, image: Tensor) -> Tensor:
        """Parameters `(b, l, p)` from one pass over the whole of `image` (b, c, h, w), right for step 0 alone."""
        ...

    def step(self, image: Tensor, at: Tensor) -> Tensor:
        """Parameters `(b, f, p)` of the positions `at` (f,) of one step; all steps before were asked for."""
        ...


def refuse_unknown(config: ModelConfig, *readers: Collection[type[Condition]]) -> None:
    """ValueError if one of the model's conditions is of no kind that a family has a reader for."""
    for condition in config.conditions:
        if not any(type(condition) in kinds for kinds in readers):
            raise ValueError(f"the {config.family} family cannot be told {condition.noun} ({condition.name})")


class Network(nn.Module):
    """A network over the positions of a `layout`. A family overrides what it can do better than by running again."""

    layout: Layout

    @property
    def differentiable(self) -> bool:
        """Whether parameters have a gradient in the values of the image: not where these are looked up in a table."""
        return True

    def read(self, given: Given) -> Any:
        """What it makes of the conditions of a batch, once for all positions: `forward` and `decoder` take it."""
        if given:
            raise ValueError(f"this network cannot be told {', '.join(given)}")
        return None

    def of_rows(self, context: Any, rows: Tensor) -> Any:
        """What was read of the images `rows` (m,) of the batch."""
        return tree_map(lambda part: part[rows] if isinstance(part, Tensor) else part, context)

    def forward(self, image: Tensor, context: Any = None) -> Tensor:
        """Parameters `(b, l, p)` of all positions, each from values of `image` (b, c, h, w) in earlier fronts alone."""
        raise NotImplementedError

    def schedule(self, known: BoolArray | None = None) -> Schedule:
        """What is generated in which step where the positions `known` (l,) are given."""
        if known is None or not known.any():
            return front_by_front(self.layout)
        front = np.where(known, -1, self.layout.positions.front)
        return Schedule(np.unique(front, return_inverse=True)[1])

    def decoder(self, context: Any, batch: int, schedule: Schedule, *, prefilled: bool = False) -> Decoder:
        """A decoder of `batch` images by the steps of `schedule`; `prefilled` if step 0 will be a `prefill`."""
        return Recomputing(self, context)

    def pass_bytes(self, positions: int) -> int:
        """About how many bytes a pass over so many positions of one image holds: here of all, every module's output."""
        outputs = (getattr(m, "out_features", getattr(m, "out_channels", 0)) for m in self.modules())
        return 4 * self.layout.num_positions * sum(outputs)

    def take_over(self, name: str, old: Tensor, new: Tensor, source: Network) -> tuple[Tensor, str] | None:
        """Make the tensor `old`, called `name`, of `source`, such a network for other images or conditions, its own.

        Its shape is that of `new`, which this network has there now. With it comes what was done, as in "is stretched".
        None if there is nothing to do but to copy, or if it cannot be done.
        """
        return None

    def closed_form_start(self, image: Tensor, given: Given) -> None:
        """Fit what needs no gradient to training images, uint8 (b, c, h, w), and their conditions."""


class Recomputing:
    """The decoder of any network: it runs the whole network again for every step."""

    num_bytes, captured = 0, False

    def __init__(self, network: Network, context: Any) -> None:
        self.network, self.context = network, context

    def prefill(self, image: Tensor) -> Tensor:
        params: Tensor = self.network(image, self.context)
        return params

    def step(self, image: Tensor, at: Tensor) -> Tensor:
        return self.prefill(image)[:, at]
