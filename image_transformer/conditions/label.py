"""The class of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from image_transformer.conditions.base import Condition, Shape
from image_transformer.data.images import ImageData, class_labels, class_names
from image_transformer.words import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Label(Condition):
    """One of the classes `names`; left empty, they are those of the training data."""

    names: tuple[str, ...] = ()

    name: ClassVar[str] = "label"
    adjective: ClassVar[str] = "class-conditional"
    noun: ClassVar[str] = "the class"
    flag: ClassVar[str] = "Class-conditional: the class of the images, by name or number."
    word: ClassVar[tuple[str, str]] = ("class", "classes")

    def __post_init__(self) -> None:
        if not isinstance(self.names, tuple) or not all(isinstance(one, str) and one for one in self.names):
            raise ValueError(f"{self.name} needs a tuple of names of {self.word[1]}, got {self.names!r}")
        for one in self.names:
            if self.names.count(one) > 1:
                raise ValueError(f"the {self.word[0]} {one!r} is there more than once")

    @property
    def choices(self) -> tuple[str, ...]:
        return self.names

    @property
    def open(self) -> str | None:
        if self.names:
            return None
        return f"{self.name} needs the names of its {self.word[1]}: {self.name}:A,B (in training those of the data)"

    def settled(self, data: ImageData) -> Label:
        return self if self.names else replace(self, names=class_names(data))

    def wanted(self, shape: Shape) -> str:
        return f"one of {len(self.names)} {self.word[1]}"

    def check(self, value: Any, count: int, shape: Shape) -> Tensor:
        """Their numbers `(count,)` int64 for numbers or names, one for each image or one for all."""
        import torch

        given = value.tolist() if isinstance(value, torch.Tensor | np.ndarray | np.generic) else value
        given = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given] * count
        if len(given) != count:
            wanted = f"{count} {self.word[1]}, as many as there are images"
            raise ValueError(f"{self.name} must hold {wanted}, got {len(given)}")
        return torch.tensor([self._number(one) for one in given], dtype=torch.int64)

    def of(self, data: ImageData) -> Tensor:
        import torch

        return torch.from_numpy(class_labels(data, self.names))

    def _number(self, label: int | str) -> int:
        if isinstance(label, str):
            if label in self.names:
                return self.names.index(label)
            if not label.isdecimal():
                raise ValueError(f"unknown {self.word[0]} {label!r}; {did_you_mean(label, self.names)}")
        elif not isinstance(label, Integral):
            raise ValueError(f"{self.name} must hold whole numbers or names of {self.word[1]}, got {label!r}")
        if not 0 <= int(label) < len(self.names):
            known = f"the model knows {len(self.names)}, 0 to {len(self.names) - 1}"
            raise ValueError(f"unknown {self.word[0]} {label}; {known}")
        return int(label)
