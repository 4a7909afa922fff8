"""Likelihoods: what a position's parameters say about its 8-bit values. Always computed in float32 or better.

Each answers two questions and the rest follows: `log_prob` of given values, in one pass; and `conditional`, the
log-masses of the 256 values of one sub-pixel given those before it in the same position. They agree; tests say so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

NUM_VALUES = 256


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


@dataclass(frozen=True)
class Categorical:
    """A 256-way softmax for every sub-pixel: positions are sub-pixels, parameters are the logits."""

    name: ClassVar[str] = "categorical"
    sub_pixels: ClassVar[bool] = True

    def num_params(self, channels: int) -> int:
        """Parameters of one position."""
        return NUM_VALUES

    def log_prob(self, logits: Tensor, values: Tensor) -> Tensor:
        """Log-probability in nats `(..., 1)` of `values` `(..., 1)` uint8 under `logits` `(..., 256)`."""
        return log_softmax(_at_least_float32(logits), -1).gather(-1, values.long())

    def conditional(self, logits: Tensor, given: Tensor) -> Tensor:
        """Log-masses `(..., 256)` of the position's one sub-pixel; `given` `(..., 0)` holds no values."""
        return log_softmax(_at_least_float32(logits), -1)

    def temper(self, logits: Tensor, channels: int, temperature: float) -> Tensor:
        """The parameters of the sharper (temperature < 1) or flatter distribution."""
        return logits / temperature


@dataclass(frozen=True)
class DiscretizedLogisticMixture:
    """DMOL: a mixture of `components` logistics for the sub-pixels of a pixel jointly; positions are pixels.

    A value's mass is the logistic CDF across its bin; bins 0 and 255 reach to infinity, so 256 masses sum to one.
    Green's mean is shifted by red, blue's by red and green, linearly, using the true values: the joint
    probability factors exactly into p(r) p(g|r) p(b|r,g). Parameters of a pixel with c channels and K components:
    K logits | c K means | c K log-scales | c (c - 1) / 2 K coefficients. Values are on [-1, 1]: v / 127.5 - 1.
    Source: PixelCNN++ (Salimans et al., 2017), sections 2.1 and 2.2; without its density fallback, see `_log_mass`.
    """

    components: int = 10
    name: ClassVar[str] = "dmol"
    sub_pixels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ValueError(f"dmol needs at least 1 component, got {self.components}")

    def num_params(self, channels: int) -> int:
        """Parameters of one position: 10 K for three channels, 3 K for one."""
        return self.components * (1 + 2 * channels + channels * (channels - 1) // 2)

    def split(self, mixture: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits `(..., K)`, means and log-scales `(..., c, K)`, coefficients `(..., c (c - 1) / 2, K)`."""
        k = self.components
        sizes = [k, channels * k, channels * k, channels * (channels - 1) // 2 * k]
        logits, means, log_scales, coefficients = mixture.split(sizes, -1)
        return (
            logits,
            means.unflatten(-1, (channels, k)),
            log_scales.unflatten(-1, (channels, k)),
            coefficients.unflatten(-1, (-1, k)) if channels > 1 else coefficients.unsqueeze(-1),
        )

    def log_prob(self, mixture: Tensor, values: Tensor) -> Tensor:
        """Log-probability in nats `(..., c)` of every sub-pixel of `values` `(..., c)` uint8 given those before it."""
        mixture = _at_least_float32(mixture)
        weights = log_softmax(mixture[..., : self.components], -1)
        joint = weights[..., None, :] + self._joint_masses(mixture, values)  # (..., c, K)
        total = torch.logsumexp(joint, -1)  # (..., c): log p(r), log p(r, g), log p(r, g, b)
        return torch.cat([total[..., :1], total.diff(dim=-1)], -1)

    def conditional(self, mixture: Tensor, given: Tensor) -> Tensor:
        """Log-masses `(..., 256)` of the sub-pixel that follows the `given` ones `(..., i)` uint8 of the same pixel.

        The number of parameters tells how many channels a pixel has.
        """
        channels = self._channels(mixture.shape[-1])
        i = given.shape[-1]
        logits, means, log_scales, coefficients = self.split(_at_least_float32(mixture), channels)
        x = torch.zeros(*given.shape[:-1], channels, dtype=means.dtype, device=means.device)
        x[..., :i] = _to_unit(given, means.dtype)
        means = means + _coupling(coefficients, x, channels)
        weights = log_softmax(logits, -1)
        if i:
            mass = _log_mass(x[..., :i, None], given[..., None], means[..., :i, :], log_scales[..., :i, :])
            weights = log_softmax(weights + mass.sum(-2), -1)  # which component made the given ones
        every = torch.arange(NUM_VALUES, device=mixture.device)[:, None]
        mean, log_scale = means[..., i, None, :], log_scales[..., i, None, :]
        mass = _log_mass(_to_unit(every, means.dtype), every, mean, log_scale)  # (..., 256, K)
        return torch.logsumexp(weights[..., None, :] + mass, -1)

    def temper(self, mixture: Tensor, channels: int, temperature: float) -> Tensor:
        """The parameters of a sharper (temperature < 1) or flatter mixture: logits divided, scales multiplied."""
        k = self.components
        logits, means, log_scales, coefficients = mixture.split(
            [k, channels * k, channels * k, mixture.shape[-1] - k - 2 * channels * k], -1
        )
        log_scales = log_scales.clamp(min=MIN_LOG_SCALE) + math.log(temperature)
        return torch.cat([logits / temperature, means, log_scales, coefficients], -1)

    def fit_weights(self, mixture: Tensor, values: Tensor, rounds: int = 50) -> Tensor:
        """The logits `(K,)`, common to all pixels, that make `values` `(n, c)` likeliest with the rest as it is.

        Expectation maximisation; the components' own masses are computed once.
        """
        mass = self._joint_masses(mixture, values)[..., -1, :]  # (n, K)
        logits = torch.zeros(self.components, dtype=mass.dtype, device=mass.device)
        for _ in range(rounds):
            logits = log_softmax(logits + mass, -1).logsumexp(0) - math.log(len(mass))
        return logits

    def _joint_masses(self, mixture: Tensor, values: Tensor) -> Tensor:
        """Log-mass of the first channel, the first two, ... under each component, without its weight, `(..., c, K)`."""
        channels = values.shape[-1]
        _, means, log_scales, coefficients = self.split(mixture, channels)
        x = _to_unit(values, means.dtype)
        means = means + _coupling(coefficients, x, channels)
        return _log_mass(x[..., None], values[..., None], means, log_scales).cumsum(-2)

    def _channels(self, num_params: int) -> int:
        return next(c for c in range(1, 9) if self.num_params(c) == num_params)


Likelihood = Categorical | DiscretizedLogisticMixture

MIN_LOG_SCALE = -7.0  # as PixelCNN++: a logistic much narrower than a bin, 2 / 255
_LOG_BIN = math.log(2 / 255)


def _to_unit(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype) / 127.5 - 1


def _coupling(coefficients: Tensor, x: Tensor, channels: int) -> Tensor:
    """What the channels before it add to each channel's means, `(..., c, K)`."""
    c = coefficients.tanh()
    shifts = [torch.zeros_like(x[..., 0, None].expand(*x.shape[:-1], coefficients.shape[-1]))]
    used = 0
    for i in range(1, channels):
        shifts.append((c[..., used : used + i, :] * x[..., :i, None]).sum(-2))
        used += i
    return torch.stack(shifts, -2) if channels > 1 else shifts[0].unsqueeze(-2)


def _log_mass(x: Tensor, values: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log of the logistic mass of the bin around `x`, exact far from the mean and for any scale.

    s(a) - s(b) = s(a) s(-b) (1 - e^(b - a)) for the sigmoid s and the bin's edges a > b: in logs nothing cancels,
    where the difference itself rounds to zero in the tails. a - b = 2/255 / scale does not depend on the mean.
    """
    log_scale = log_scale.clamp(min=MIN_LOG_SCALE)
    inv_scale = torch.exp(-log_scale)
    middle = (x - mean) * inv_scale
    half = inv_scale / 255
    upper = torch.where(values == NUM_VALUES - 1, 0.0, logsigmoid(middle + half))
    lower = torch.where(values == 0, 0.0, logsigmoid(half - middle))
    inside = (values > 0) & (values < NUM_VALUES - 1)
    return upper + lower + torch.where(inside, _log1mexp(_LOG_BIN - log_scale), 0.0)


def _log1mexp(log_d: Tensor) -> Tensor:
    """log(1 - e^-d) for d = e^log_d > 0; for small d it is log d - d/2, which does not underflow."""
    d = log_d.exp()
    return torch.where(d < 1e-6, log_d - d / 2, torch.log(-torch.expm1(-d.clamp(min=1e-6))))
