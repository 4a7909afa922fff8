"""The image to edit; the model draws the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from image_transformer.conditions.base import Condition, Shape, check_sight
from image_transformer.data.images import DataError, ImageData, check_images

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Source(Condition):
    """Editing: an image of the same size, uint8 (b, c, h, w), from which the result is drawn.

    sight: how much of it each pixel is told. `near`: what lies around it, so that images of any size can be edited by
    tiles; `all`: everything, for edits that move pixels far, such as mirroring.
    """

    sight: Literal["near", "all"] = "near"

    name: ClassVar[str] = "source"
    adjective: ClassVar[str] = "for editing"
    noun: ClassVar[str] = "the source"
    instead: ClassVar[tuple[str, str]] = ("edits images", "edit {model} IMAGE...")

    def __post_init__(self) -> None:
        check_sight(self.name, self.sight)

    def wanted(self, shape: Shape) -> str:
        return f"uint8 images (n, {', '.join(map(str, shape))})"

    def check(self, value: Any, count: int, shape: Shape) -> Tensor:
        check_images(value, shape, "source", count)
        return value

    def of(self, data: ImageData) -> Tensor:
        import torch

        self.suits(data)
        return torch.from_numpy(np.array(data.sources))

    def suits(self, data: ImageData) -> None:
        if data.sources is None:
            raise DataError(
                f"{data.name}: the images have no sources, which a model for editing needs: shapes-edits has some, "
                'lines of metadata.jsonl may name them ("source_file_name": FILE), and a training makes them: '
                "--data.edits local"
            )

    def example(self, images: Tensor) -> Tensor:
        return images

    def shown(self, value: Tensor) -> NDArray[np.uint8]:
        return value.cpu().numpy()
