"""What a condition is: a frozen value that a model's configuration names and that answers for what it is told.

To add one: a file beside this one, a line in `config/model.py`, and what a network makes of it (`VECTORS`, `FEATURES`,
`ENCODERS` or `PLACED` of a family). Importing this must not import torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from image_transformer.data.images import ImageData
from image_transformer.geometry.order import Layout
from image_transformer.geometry.orientation import Orientation

if TYPE_CHECKING:
    from torch import Tensor

    from image_transformer.conditions.limits import BoxLimits

Shape = tuple[int, int, int]  # channels, height and width of the model's images
Given = Mapping[str, Any]  # checked values of conditions by their names: tensors, batch first


@dataclass(frozen=True)
class Condition:
    """One condition of a model. The defaults suit most conditions."""

    name: ClassVar[str]  # its keyword, as in generate(model, label="cat")
    adjective: ClassVar[str]  # of a model that is told it: "class-conditional"
    noun: ClassVar[str]  # of what is told: bits/dim given "the class"
    flag: ClassVar[str | None] = None  # help of --NAME on the command line, where a word can say it
    instead: ClassVar[tuple[str, str] | None] = None  # what such a model does and by which command, if not `sample`
    needs: ClassVar[str] = ""  # flags that such a command cannot do without
    follows: ClassVar[bool] = False  # whether it follows from the image itself, so that scoring need not be told
    captioned: ClassVar[bool] = False  # whether it is taken from the captions of images

    def fit(self, shape: Shape) -> None:
        """ValueError unless images of this shape can be described so."""

    @property
    def open(self) -> str | None:
        """What it leaves to the training data, in words, if anything."""
        return None

    def settled(self, data: ImageData) -> Condition:
        """Itself, with what was open taken from the training data."""
        return self

    def wanted(self, shape: Shape) -> str:
        """What has to be told, for the message where it is missing."""
        raise NotImplementedError

    def check(self, value: Any, count: int, shape: Shape) -> Tensor:
        """What a user told of `count` images, one value for each (or one for all), batch first; ValueError if wrong.

        Also takes what `of` and itself return, and a word of the command line where there is a `flag`.
        """
        raise NotImplementedError

    def of(self, data: ImageData) -> Tensor:
        """What the data says of its images, batch first; ValueError if it does not say."""
        raise NotImplementedError

    def suits(self, data: ImageData) -> None:
        """DataError unless it can be told of all of the training data: at the start, and not after hours."""

    def varied(self, data: ImageData, draws: Sequence[int]) -> Tensor:
        """What training sees: `of`, or another way to say it, as `draws` has it: 63 random bits for each image."""
        return self.of(data)

    def nothing(self, value: Tensor) -> Tensor | None:
        """The value, for as many images, that tells nothing, if there is one: a model that knows it can be guided."""
        return None

    def turned(self, value: Tensor, how: Orientation) -> Tensor:
        """The value for images in another orientation: pictures (n, ..., c, h, w) are turned with them."""
        return how.apply(value) if value.dim() > 3 else value

    def example(self, images: Tensor) -> Tensor:
        """What could be told of images, uint8 (b, c, h, w), as long as it can be: to trace a model with."""
        if self.follows:
            return self.of(ImageData("", "", images.numpy()))
        return self.check([i % len(self.choices) for i in range(len(images))], len(images), tuple(images.shape[1:]))  # type: ignore[arg-type]

    @property
    def choices(self) -> tuple[str, ...]:
        """All values that can be told, if these are few: a model can then be asked for the likeliest.

        `check` takes them by name and by number.
        """
        return ()

    def shown(self, value: Tensor) -> NDArray[np.uint8] | None:
        """The values as pictures of the model's size (n, c, h, w), where they are pictures."""
        return None

    def guess(self, value: Tensor) -> Tensor | None:
        """Images (n, c, h, w) that are like those that are so described: where drawing by guesses starts."""
        import torch

        shown = self.shown(value)
        return None if shown is None else torch.from_numpy(shown)

    def said(self, value: Tensor) -> list[str]:
        """The values as words, where they are words."""
        return []

    def limits(self, value: Tensor, layout: Layout) -> BoxLimits | None:
        """The bounds that the value puts on the values of an image, if it does: `consistent=` keeps to them."""
        return None


def drawing(conditions: Iterable[Condition | type[Condition]], model: str | os.PathLike[str]) -> str:
    """The command that draws by a model of these conditions."""
    said = list(conditions)
    command = next((one.instead[1] for one in said if one.instead), "sample {model}").format(model=model)
    return " ".join(["image-transformer", command, *(one.needs for one in said if one.needs)])


def check_sight(name: str, sight: str) -> None:
    """ValueError unless a condition called `name` is seen near or all."""
    if sight not in ("near", "all"):
        raise ValueError(f"{name}: sight must be near or all, got {sight!r}")


def select(given: Given, rows: Any) -> dict[str, Any]:
    """The conditions of some of the images."""
    return {name: value[rows] for name, value in given.items()}


def repeated(given: Given, times: int) -> dict[str, Any]:
    """The conditions of images of which each is there so many times, one after the other."""
    return {name: value.repeat_interleave(times, 0) for name, value in given.items()}
