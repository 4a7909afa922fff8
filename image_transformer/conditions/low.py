"""The low-resolution version of an image: the means of its boxes of pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from image_transformer.conditions.base import Condition, Shape
from image_transformer.data.images import ImageData, check_images
from image_transformer.geometry.boxes import box_mean, nearest
from image_transformer.geometry.order import Layout

if TYPE_CHECKING:
    from torch import Tensor

    from image_transformer.conditions.limits import BoxLimits


@dataclass(frozen=True)
class Low(Condition):
    """Super-resolution: the mean of each box of `factor` x `factor` pixels, uint8 (b, c, h / factor, w / factor)."""

    factor: int

    name: ClassVar[str] = "low"
    adjective: ClassVar[str] = "for super-resolution"
    noun: ClassVar[str] = "the box means"
    instead: ClassVar[tuple[str, str]] = ("enlarges images", "superres {model} IMAGE...")
    follows: ClassVar[bool] = True

    def fit(self, shape: Shape) -> None:
        _, height, width = shape
        if self.factor < 2 or height % self.factor or width % self.factor:
            raise ValueError(
                f"the factor must be at least 2 and divide the height {height} and width {width}, got {self.factor}"
            )

    def shape(self, shape: Shape) -> Shape:
        """Channels, height and width of the low-resolution version of such images."""
        channels, height, width = shape
        return channels, height // self.factor, width // self.factor

    def wanted(self, shape: Shape) -> str:
        return f"{self.shape(shape)} images"

    def check(self, value: Any, count: int, shape: Shape) -> Tensor:
        check_images(value, self.shape(shape), "low", count)
        return value

    def of(self, data: ImageData) -> Tensor:
        import torch

        return torch.from_numpy(box_mean(np.asarray(data.images), self.factor))

    def shown(self, value: Tensor) -> NDArray[np.uint8]:
        return nearest(value.cpu().numpy(), self.factor)

    def limits(self, value: Tensor, layout: Layout) -> BoxLimits:
        from image_transformer.conditions.limits import BoxLimits

        return BoxLimits(value, layout, self.factor)
