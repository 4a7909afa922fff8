"""A softmax for every sub-pixel."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import log_softmax

from image_transformer.likelihoods.base import NUM_VALUES, Likelihood, at_least_float32


class Categorical(Likelihood):
    """A 256-way softmax for every sub-pixel: positions are sub-pixels, parameters are the logits."""

    sub_pixels, num_params, num_noise = True, NUM_VALUES, 1

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    def log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        return log_softmax(at_least_float32(params) / self.temperature, -1).gather(-1, values.long())

    def conditional(self, params: Tensor, given: Tensor, temperature: float = 1.0) -> Tensor:
        return log_softmax(at_least_float32(params) / (self.temperature * temperature), -1)
