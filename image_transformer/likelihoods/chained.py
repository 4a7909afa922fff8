"""Softmaxes for the sub-pixels of a pixel, each given those before it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, logsigmoid, pad, silu

from image_transformer.likelihoods.base import NUM_VALUES, Likelihood, at_least_float32, to_unit


class ChainedCategorical(Likelihood, nn.Module):
    """Three 256-way softmax heads on one state of a pixel, p(r), p(g|r) and p(b|r,g): positions are pixels.

    The freedom of `Categorical` at a third of its positions. Parameters of a pixel with c channels and hidden width H:
    c H hidden numbers | c means | c log-scales. The logits of channel i are those of a logistic with that mean and
    scale, whose mean moves linearly with the channels before, plus W_i silu(hidden_i + sum_j T_ij[value_j]); W_i
    starts at zero, so that training starts from the logistic.
    """

    sub_pixels, has_means = False, True

    def __init__(self, channels: int, hidden: int, min_log_scale: float = -7.0, temperature: float = 1.0) -> None:
        super().__init__()
        self.channels, self.hidden = channels, hidden
        self.num_params, self.num_noise = channels * (hidden + 2), channels
        self.min_log_scale, self.temperature = min_log_scale, temperature
        self.output = nn.Parameter(torch.zeros(channels, NUM_VALUES, hidden))
        smooth = torch.cos(torch.outer(torch.arange(NUM_VALUES) / (NUM_VALUES - 1), torch.arange(1, 9)) * math.pi)
        pairs = channels * (channels - 1) // 2
        self.given = nn.Parameter(smooth @ torch.randn(pairs, 8, hidden) / 4)  # like values start with like rows
        self.coupling = nn.Parameter(torch.zeros(channels, channels))

    def init_head(self, weight: Tensor) -> None:
        """Training starts from the logistics; the hidden numbers are random, lest `output` have no gradient."""
        nn.init.zeros_(weight)
        nn.init.normal_(weight[: self.channels * self.hidden], std=weight.shape[1] ** -0.5)

    def log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        logits = torch.stack([self._logits(params, values[..., :i]) for i in range(self.channels)], -2)
        return log_softmax(logits / self.temperature, -1).gather(-1, values.long()[..., None])[..., 0]

    def conditional(self, params: Tensor, given: Tensor, temperature: float = 1.0) -> Tensor:
        return log_softmax(self._logits(params, given) / (self.temperature * temperature), -1)

    def mean_params(self, means: Tensor) -> Tensor:
        return pad(means, (self.channels * self.hidden, self.channels))

    def start(self, means: Tensor, x: Tensor, coupling: Tensor) -> Tensor:
        """Each channel's scale from its mean error; `self.coupling` is set."""
        with torch.no_grad():
            self.coupling.copy_(coupling)
        scales = (x - means - x @ coupling.T).abs().mean(0) / (2 * math.log(2))  # E|x| of a logistic is 2 s log 2
        return pad(scales.log().clamp(min=self.min_log_scale), (self.channels * (self.hidden + 1), 0))

    def _logits(self, params: Tensor, given: Tensor) -> Tensor:
        """Logits `(..., 256)` of the channel that follows the `given` ones `(..., i)`."""
        i, params = given.shape[-1], at_least_float32(params)
        hidden, means, log_scales = params.split([self.channels * self.hidden, self.channels, self.channels], -1)
        state = hidden.unflatten(-1, (self.channels, -1))[..., i, :]
        mean = means[..., i, None]
        for j in range(i):
            state = state + self.given[i * (i - 1) // 2 + j].to(state.dtype)[given[..., j].long()]
            mean = mean + self.coupling[i, j] * to_unit(given[..., j, None], mean.dtype)
        x = to_unit(torch.arange(NUM_VALUES, device=params.device), mean.dtype)
        z = (x - mean) * torch.exp(-log_scales[..., i, None].clamp(min=self.min_log_scale))
        log_density = logsigmoid(z) + logsigmoid(-z)  # of a logistic
        return log_density + silu(state) @ self.output[i].T.to(state.dtype)
