"""DMOL: a mixture of discretized logistics for the sub-pixels of a pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, pad

from image_transformer.likelihoods.base import NUM_VALUES, Likelihood, at_least_float32, below_total, to_unit

_LOG_BIN = math.log(2 / 255)


class DiscretizedLogisticMixture(Likelihood):
    """DMOL: a mixture of `components` logistics for the sub-pixels of a pixel jointly; positions are pixels.

    A value's mass is the logistic CDF across its bin; bins 0 and 255 reach to infinity, so 256 masses sum to one.
    Green's mean is shifted by red, blue's by red and green, linearly, using the true values: the joint
    probability factors exactly into p(r) p(g|r) p(b|r,g). Parameters of a pixel with c channels and K components:
    K logits | c K means | c K log-scales | c (c - 1) / 2 K coefficients. Values are on [-1, 1]: v / 127.5 - 1.
    Source: PixelCNN++ (Salimans et al., 2017), sections 2.1 and 2.2; without its density fallback, see `_log_mass`.
    """

    sub_pixels, has_means, by_table = False, True, False

    def __init__(
        self, components: int = 10, channels: int = 3, min_log_scale: float = -7.0, temperature: float = 1.0
    ) -> None:
        """min_log_scale: the default, as in PixelCNN++, is that of a logistic much narrower than a bin, 2 / 255."""
        self.components, self.channels = components, channels
        self.min_log_scale, self.temperature = min_log_scale, temperature
        self.table = components
        self.num_params = components * (1 + 2 * channels + channels * (channels - 1) // 2)
        self.num_noise = channels + 1  # one a channel, and one for the component

    def split(self, mixture: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits `(..., K)`, means and log-scales `(..., c, K)`, coefficients `(..., c (c - 1) / 2, K)`."""
        k, channels = self.components, self.channels
        sizes = [k, channels * k, channels * k, channels * (channels - 1) // 2 * k]
        logits, means, log_scales, coefficients = mixture.split(sizes, -1)
        return (
            logits,
            means.unflatten(-1, (channels, k)),
            log_scales.unflatten(-1, (channels, k)),
            coefficients.unflatten(-1, (-1, k)) if channels > 1 else coefficients.unsqueeze(-1),
        )

    def log_prob(self, mixture: Tensor, values: Tensor) -> Tensor:
        weights, means, log_scales, coefficients = self._tempered(at_least_float32(mixture), 1.0)
        joint = weights[..., None, :] + _joint_masses(means, log_scales, coefficients, values)  # (..., c, K)
        total = torch.logsumexp(joint, -1)  # (..., c): log p(r), log p(r, g), log p(r, g, b)
        return torch.cat([total[..., :1], total.diff(dim=-1)], -1)

    def conditional(self, mixture: Tensor, given: Tensor, temperature: float = 1.0) -> Tensor:
        weights, mean, log_scale = self._next(mixture, given, temperature)
        every = torch.arange(NUM_VALUES, device=mixture.device)[:, None]
        mass = _log_mass(every, every, mean[..., None, :], log_scale[..., None, :])  # (..., 256, K)
        return torch.logsumexp(weights[..., None, :] + mass, -1)

    def log_mass_within(self, mixture: Tensor, given: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        weights, mean, log_scale = self._next(mixture, given, 1.0)
        return torch.logsumexp(weights + _log_mass(lowest[..., None], highest[..., None], mean, log_scale), -1)

    def draw_within(
        self, mixture: Tensor, given: Tensor, uniform: Tensor, lowest: Tensor, highest: Tensor, temperature: float = 1.0
    ) -> Tensor:
        """First a component, by its share of the mass between the bounds; what is left of the number then inverts that
        component's CDF between them, in logs, so that nothing is lost however far the bounds are from the mean.
        """
        weights, mean, log_scale = self._next(mixture.double(), given, temperature)
        lowest, highest = lowest[..., None], highest[..., None]
        share = torch.softmax(weights + _log_mass(lowest, highest, mean, log_scale), -1)
        cdf = share.cumsum(-1)
        level = below_total(uniform[..., None], cdf[..., -1:])
        component = (cdf <= level).sum(-1, keepdim=True)
        mean, log_scale, share, cdf = (x.gather(-1, component) for x in (mean, log_scale, share, cdf))
        rest = ((level - cdf) / share + 1).clamp(0, 1)
        scale = log_scale.exp()
        low = torch.where(lowest == 0, -torch.inf, ((2 * lowest - 256) / 255 - mean) / scale)
        high = torch.where(highest == NUM_VALUES - 1, torch.inf, ((2 * highest - 254) / 255 - mean) / scale)
        below, above = torch.log1p(-rest), rest.log()
        log_cdf = torch.logaddexp(below + logsigmoid(low), above + logsigmoid(high))
        log_survival = torch.logaddexp(below + logsigmoid(-low), above + logsigmoid(-high))
        x = (log_cdf - log_survival) * scale + mean
        return ((x + 1) * 127.5).round().clamp(lowest, highest)[..., 0].to(torch.uint8)

    def _next(self, mixture: Tensor, given: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights, means and log-scales `(..., K)` of the sub-pixel that follows the `given` ones."""
        i = given.shape[-1]
        weights, means, log_scales, coefficients = self._tempered(at_least_float32(mixture), temperature)
        x = pad(to_unit(given, means.dtype), (0, self.channels - i))
        means = means + _coupling(coefficients, x, self.channels)
        if i:
            known = given[..., None]
            mass = _log_mass(known, known, means[..., :i, :], log_scales[..., :i, :])
            weights = log_softmax(weights + mass.sum(-2), -1)  # which component made the given ones
        return weights, means[..., i, :], log_scales[..., i, :]

    def draw(self, mixture: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
        """First a component, then its channels in turn.

        A logistic that is rounded to the grid has exactly the mass of each bin, so no table of 256 masses is needed.
        """
        weights, means, log_scales, coefficients = self._tempered(mixture.double(), temperature)
        cdf = weights.exp().cumsum(-1)
        component = (cdf <= uniform[..., -1:] * cdf[..., -1:]).sum(-1, keepdim=True).clamp(max=self.components - 1)

        def of_component(table: Tensor) -> Tensor:  # (..., i, K) -> (..., i)
            index = component[..., None, :].expand(*table.shape[:-1], 1)
            return table.gather(-1, index)[..., 0]

        coefficients = of_component(coefficients.tanh())
        noise = torch.logit(uniform[..., : self.channels]) * of_component(log_scales).exp() + of_component(means)
        x = torch.zeros_like(noise)
        used = 0
        for i in range(self.channels):
            shift = (coefficients[..., used : used + i] * x[..., :i]).sum(-1)
            used += i
            level = ((noise[..., i] + shift + 1) * 127.5).round().clamp(0, NUM_VALUES - 1)
            x[..., i] = to_unit(level, x.dtype)
        return ((x + 1) * 127.5).round().to(torch.uint8)

    def mean_params(self, means: Tensor) -> Tensor:
        """All components have the same means."""
        k, channels = self.components, self.channels
        return pad(means.repeat_interleave(k, -1), (k, self.num_params - k - k * channels))

    def flat(self) -> Tensor:
        """Components side by side, as wide as they are apart: equal ones would have equal gradients and stay equal."""
        params = torch.zeros(self.num_params)
        _, means, log_scales, _ = self.split(params)  # views
        means.copy_((2 * torch.arange(self.components) + 1) / self.components - 1)
        log_scales.fill_(-math.log(self.components))
        return params

    def start(self, means: Tensor, x: Tensor, coupling: Tensor) -> Tensor:
        """Scales from the quantiles of what the means miss, then the weights that fit best."""
        channels, k = self.channels, self.components
        params = torch.zeros(self.num_params, dtype=x.dtype)
        _, _, log_scales, coefficients = self.split(params)  # views
        missed = (x - means - x @ coupling.T).abs()
        spread = missed.quantile(torch.linspace(0.1, 0.95, k, dtype=x.dtype), 0).T
        log_scales.copy_(spread.log().clamp(min=self.min_log_scale))  # what is predicted without fail has no logarithm
        if channels > 1:
            coefficients.copy_(coupling[tuple(torch.tril_indices(channels, channels, -1))][:, None].atanh())
        params[:k] = self._fit_weights(params + self.mean_params(means), ((x + 1) * 127.5).round().to(torch.uint8))
        return params

    def _fit_weights(self, mixture: Tensor, values: Tensor, rounds: int = 50) -> Tensor:
        """The logits `(K,)`, common to all pixels, that make `values` `(n, c)` likeliest with the rest as it is.

        Expectation maximisation; the components' own masses are computed once.
        """
        _, means, log_scales, coefficients = self.split(mixture)
        log_scales = log_scales.clamp(min=self.min_log_scale)
        mass = _joint_masses(means, log_scales, coefficients, values)[..., -1, :]  # (n, K)
        logits = torch.zeros(self.components, dtype=mass.dtype, device=mass.device)
        for _ in range(rounds):
            logits = log_softmax(logits + mass, -1).logsumexp(0) - math.log(len(mass))
        return logits

    def _tempered(self, mixture: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-weights, means, log-scales and coefficients, as `split`, of the sharper or flatter mixture."""
        logits, means, log_scales, coefficients = self.split(mixture)
        temperature *= self.temperature
        log_scales = log_scales.clamp(min=self.min_log_scale) + math.log(temperature)
        return log_softmax(logits / temperature, -1), means, log_scales, coefficients


def _joint_masses(means: Tensor, log_scales: Tensor, coefficients: Tensor, values: Tensor) -> Tensor:
    """Log-mass of the first channel, the first two, ... under each component, without its weight, `(..., c, K)`."""
    means = means + _coupling(coefficients, to_unit(values, means.dtype), means.shape[-2])
    values = values[..., None]
    return _log_mass(values, values, means, log_scales).cumsum(-2)


def _coupling(coefficients: Tensor, x: Tensor, channels: int) -> Tensor:
    """What the channels before it add to each channel's means, `(..., c, K)`."""
    c = coefficients.tanh()
    shifts = [torch.zeros_like(x[..., 0, None].expand(*x.shape[:-1], coefficients.shape[-1]))]
    used = 0
    for i in range(1, channels):
        shifts.append((c[..., used : used + i, :] * x[..., :i, None]).sum(-2))
        used += i
    return torch.stack(shifts, -2) if channels > 1 else shifts[0].unsqueeze(-2)


def _log_mass(lowest: Tensor, highest: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log of the logistic mass of the bins of the values `lowest` to `highest`, exact far from the mean, at any scale.

    s(a) - s(b) = s(a) s(-b) (1 - e^(b - a)) for the sigmoid s and the edges a > b: in logs nothing cancels, where the
    difference itself rounds to zero in the tails. a - b, 2/255 a bin, does not depend on the mean.
    Distances are taken in half levels, 2 v - 255, which are whole numbers: so neighbouring bins share their edge.
    """
    low, high = lowest.to(mean.dtype), highest.to(mean.dtype)
    bins = high - low + 1
    half = torch.exp(-log_scale) / 255
    middle, reach = (low + high - 255 - 255 * mean) * half, bins * half
    upper = torch.where(highest == NUM_VALUES - 1, 0.0, logsigmoid(middle + reach))
    lower = torch.where(lowest == 0, 0.0, logsigmoid(reach - middle))
    inside = (lowest > 0) & (highest < NUM_VALUES - 1)
    log_width = _LOG_BIN if lowest is highest else _LOG_BIN + bins.log()  # of one bin, one number for all 256
    return upper + lower + torch.where(inside, _log1mexp(log_width - log_scale), 0.0)


def _log1mexp(log_d: Tensor) -> Tensor:
    """log(1 - e^-d) for d = e^log_d > 0; for small d it is log d - d/2, which does not underflow."""
    d = log_d.exp()
    return torch.where(d < 1e-6, log_d - d / 2, torch.log(-torch.expm1(-d.clamp(min=1e-6))))
