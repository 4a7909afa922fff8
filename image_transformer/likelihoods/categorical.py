"""A softmax for every sub-pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import log_softmax

from image_transformer.likelihoods.base import NUM_VALUES, ByTable, Likelihood, at_least_float32


@dataclass(frozen=True)
class Categorical(ByTable):
    """A 256-way softmax for every sub-pixel: positions are sub-pixels, parameters are the logits."""

    temperature: float = 1.0
    name: ClassVar[str] = "categorical"
    sub_pixels: ClassVar[bool] = True
    num_params: ClassVar[int] = NUM_VALUES
    num_noise: ClassVar[int] = 1

    def init_head(self, weight: Tensor) -> None:
        """Training starts from the uniform distribution."""
        nn.init.zeros_(weight)

    def log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        return log_softmax(at_least_float32(params) / self.temperature, -1).gather(-1, values.long())

    def conditional(self, params: Tensor, given: Tensor, temperature: float = 1.0) -> Tensor:
        return log_softmax(at_least_float32(params) / (self.temperature * temperature), -1)


def make(*, temperature: float, **others: Any) -> Likelihood:
    return Categorical(temperature)
