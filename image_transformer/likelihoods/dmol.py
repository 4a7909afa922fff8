"""Likelihoods: what a position's parameters say about its 8-bit values. Always computed in float32 or better.

Each answers two questions and the rest follows: `log_prob` of given values, in one pass; and `conditional`, the
log-masses of the 256 values of one sub-pixel given those before it in the same position. They agree; tests say so.
`draw` turns uniform noise into values, one number a sub-pixel, and more where that makes drawing cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, logsigmoid, pad, silu

NUM_VALUES = 256


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class _ByTable:
    """What follows from `conditional` alone, where a table of 256 masses is at hand anyway."""

    conditional: Callable[..., Tensor]

    def draw(self, params: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
        """Values `(..., v)` for `uniform` `(..., v)` on [0, 1), one channel after the other."""
        return draw_in_turn(cast(Likelihood, self), params, uniform, temperature)

    def log_mass_within(self, params: Tensor, given: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        """Log of the mass `(...)` of the values from `lowest` to `highest` `(...)` after the `given` ones."""
        return self.conditional(params, given).masked_fill(~within(lowest, highest), -torch.inf).logsumexp(-1)

    def draw_within(
        self, params: Tensor, given: Tensor, uniform: Tensor, lowest: Tensor, highest: Tensor, temperature: float = 1.0
    ) -> Tensor:
        """A value `(...)` uint8 from `lowest` to `highest` after the `given` ones, for `uniform` `(...)` on [0, 1)."""
        return invert_cdf(_bounded(self.conditional(params, given, temperature), lowest, highest), uniform)


@dataclass(frozen=True)
class Categorical(_ByTable):
    """A 256-way softmax for every sub-pixel: positions are sub-pixels, parameters are the logits."""

    name: ClassVar[str] = "categorical"
    sub_pixels: ClassVar[bool] = True

    def num_params(self, channels: int) -> int:
        """Parameters of one position."""
        return NUM_VALUES

    def init_head(self, weight: Tensor) -> None:
        """Set the matrix `(p, d)` that makes the parameters so that training starts from the uniform distribution."""
        nn.init.zeros_(weight)

    def log_prob(self, logits: Tensor, values: Tensor) -> Tensor:
        """Log-probability in nats `(..., 1)` of `values` `(..., 1)` uint8 under `logits` `(..., 256)`."""
        return log_softmax(_at_least_float32(logits), -1).gather(-1, values.long())

    def conditional(self, logits: Tensor, given: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-masses `(..., 256)` of the position's one sub-pixel; `given` `(..., 0)` holds no values.

        The logits are divided by `temperature`.
        """
        return log_softmax(_at_least_float32(logits) / temperature, -1)

    def num_noise(self, channels: int) -> int:
        """Uniform numbers that `draw` takes for a position."""
        return 1


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

    def conditional(self, mixture: Tensor, given: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-masses `(..., 256)` of the sub-pixel that follows the `given` ones `(..., i)` uint8 of the same pixel.

        The number of parameters tells how many channels a pixel has. `temperature` divides the logits and multiplies
        the scales.
        """
        weights, mean, log_scale = self._next(mixture, given, temperature)
        every = torch.arange(NUM_VALUES, device=mixture.device)[:, None]
        mass = _log_mass(every, every, mean[..., None, :], log_scale[..., None, :])  # (..., 256, K)
        return torch.logsumexp(weights[..., None, :] + mass, -1)

    def log_mass_within(self, mixture: Tensor, given: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        """Log of the mass `(...)` of the values from `lowest` to `highest` `(...)` after the `given` ones."""
        weights, mean, log_scale = self._next(mixture, given, 1.0)
        return torch.logsumexp(weights + _log_mass(lowest[..., None], highest[..., None], mean, log_scale), -1)

    def draw_within(
        self, mixture: Tensor, given: Tensor, uniform: Tensor, lowest: Tensor, highest: Tensor, temperature: float = 1.0
    ) -> Tensor:
        """A value `(...)` uint8 from `lowest` to `highest` after the `given` ones, for `uniform` `(...)` on [0, 1).

        First a component, by its share of the mass between the bounds; what is left of the number then inverts that
        component's CDF between them, in logs, so that nothing is lost however far the bounds are from the mean.
        """
        weights, mean, log_scale = self._next(mixture.double(), given, temperature)
        lowest, highest = lowest[..., None], highest[..., None]
        share = torch.softmax(weights + _log_mass(lowest, highest, mean, log_scale), -1)
        cdf = share.cumsum(-1)
        level = _below(uniform[..., None], cdf[..., -1:])
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
        weights, means, log_scales, coefficients = self._tempered(_at_least_float32(mixture), temperature)
        channels = means.shape[-2]
        x = pad(_to_unit(given, means.dtype), (0, channels - i))
        means = means + _coupling(coefficients, x, channels)
        if i:
            known = given[..., None]
            mass = _log_mass(known, known, means[..., :i, :], log_scales[..., :i, :])
            weights = log_softmax(weights + mass.sum(-2), -1)  # which component made the given ones
        return weights, means[..., i, :], log_scales[..., i, :]

    def num_noise(self, channels: int) -> int:
        """Uniform numbers that `draw` takes for a position: one a channel, the last for the component."""
        return channels + 1

    def draw(self, mixture: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
        """Values `(..., c)` for `uniform` `(..., c + 1)` on [0, 1): first a component, then its channels in turn.

        A logistic that is rounded to the grid has exactly the mass of each bin, so no table of 256 masses is needed.
        """
        weights, means, log_scales, coefficients = self._tempered(mixture.double(), temperature)
        channels = means.shape[-2]
        cdf = weights.exp().cumsum(-1)
        component = (cdf <= uniform[..., -1:] * cdf[..., -1:]).sum(-1, keepdim=True).clamp(max=self.components - 1)

        def of_component(table: Tensor) -> Tensor:  # (..., i, K) -> (..., i)
            index = component[..., None, :].expand(*table.shape[:-1], 1)
            return table.gather(-1, index)[..., 0]

        coefficients = of_component(coefficients.tanh())
        noise = torch.logit(uniform[..., :channels]) * of_component(log_scales).exp() + of_component(means)
        x = torch.zeros_like(noise)
        used = 0
        for i in range(channels):
            shift = (coefficients[..., used : used + i] * x[..., :i]).sum(-1)
            used += i
            level = ((noise[..., i] + shift + 1) * 127.5).round().clamp(0, NUM_VALUES - 1)
            x[..., i] = _to_unit(level, x.dtype)
        return ((x + 1) * 127.5).round().to(torch.uint8)

    def init_head(self, weight: Tensor) -> None:
        """Set the matrix `(p, d)` that makes the parameters so that training starts from what is added to them."""
        nn.init.zeros_(weight)

    def mean_params(self, means: Tensor) -> Tensor:
        """Parameters `(..., p)` that are zero but for the `means` `(..., c)` of all components."""
        k, channels = self.components, means.shape[-1]
        return pad(means.repeat_interleave(k, -1), (k, self.num_params(channels) - k - k * channels))

    def start(self, means: Tensor, x: Tensor, coupling: Tensor) -> Tensor:
        """The parameters `(p,)` to add to given `means` `(n, c)` so that pixels `x` `(n, c)` on [-1, 1] are likely.

        coupling `(c, c)`: how far the mean of channel i moves with the value of channel j < i.
        """
        channels, k = x.shape[-1], self.components
        params = torch.zeros(self.num_params(channels), dtype=x.dtype)
        _, _, log_scales, coefficients = self.split(params, channels)  # views
        missed = (x - means - x @ coupling.T).abs()
        spread = missed.quantile(torch.linspace(0.1, 0.95, k, dtype=x.dtype), 0).T
        log_scales.copy_(spread.log().clamp(min=MIN_LOG_SCALE))  # what is predicted without fail has no logarithm
        if channels > 1:
            coefficients.copy_(coupling[tuple(torch.tril_indices(channels, channels, -1))][:, None].atanh())
        params[:k] = self._fit_weights(params + self.mean_params(means), ((x + 1) * 127.5).round().to(torch.uint8))
        return params

    def _fit_weights(self, mixture: Tensor, values: Tensor, rounds: int = 50) -> Tensor:
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
        values = values[..., None]
        return _log_mass(values, values, means, log_scales.clamp(min=MIN_LOG_SCALE)).cumsum(-2)

    def _tempered(self, mixture: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-weights, means, log-scales and coefficients, as `split`, of the sharper or flatter mixture."""
        logits, means, log_scales, coefficients = self.split(mixture, self._channels(mixture.shape[-1]))
        log_scales = log_scales.clamp(min=MIN_LOG_SCALE) + math.log(temperature)
        return log_softmax(logits / temperature, -1), means, log_scales, coefficients

    def _channels(self, num_params: int) -> int:
        return next(c for c in range(1, 9) if self.num_params(c) == num_params)


class ChainedCategorical(_ByTable, nn.Module):
    """Three 256-way softmax heads on one state of a pixel, p(r), p(g|r) and p(b|r,g): positions are pixels.

    The freedom of `Categorical` at a third of its positions. Parameters of a pixel with c channels and hidden width H:
    c H hidden numbers | c means | c log-scales. The logits of channel i are those of a logistic with that mean and
    scale, whose mean moves linearly with the channels before, plus W_i silu(hidden_i + sum_j T_ij[value_j]); W_i
    starts at zero, so that training starts from the logistic.
    """

    name: ClassVar[str] = "chained"
    sub_pixels: ClassVar[bool] = False

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.channels, self.hidden = channels, hidden
        self.output = nn.Parameter(torch.zeros(channels, NUM_VALUES, hidden))
        smooth = torch.cos(torch.outer(torch.arange(NUM_VALUES) / (NUM_VALUES - 1), torch.arange(1, 9)) * math.pi)
        pairs = channels * (channels - 1) // 2
        self.given = nn.Parameter(smooth @ torch.randn(pairs, 8, hidden) / 4)  # like values start with like rows
        self.coupling = nn.Parameter(torch.zeros(channels, channels))

    def num_params(self, channels: int) -> int:
        """Parameters of one position."""
        return channels * (self.hidden + 2)

    def init_head(self, weight: Tensor) -> None:
        """Set the matrix `(p, d)` that makes the parameters so that training starts from the logistics."""
        nn.init.zeros_(weight)
        nn.init.normal_(weight[: self.channels * self.hidden], std=weight.shape[1] ** -0.5)

    def mean_params(self, means: Tensor) -> Tensor:
        """Parameters `(..., p)` that are zero but for the `means` `(..., c)`."""
        return pad(means, (self.channels * self.hidden, self.channels))

    def start(self, means: Tensor, x: Tensor, coupling: Tensor) -> Tensor:
        """The parameters `(p,)` to add to given `means` `(n, c)` so that pixels `x` `(n, c)` on [-1, 1] are likely.

        coupling `(c, c)`: how far the mean of channel i moves with the value of channel j < i.
        """
        with torch.no_grad():
            self.coupling.copy_(coupling)
        scales = (x - means - x @ coupling.T).abs().mean(0) / (2 * math.log(2))  # E|x| of a logistic is 2 s log 2
        return pad(scales.log().clamp(min=MIN_LOG_SCALE), (self.channels * (self.hidden + 1), 0))

    def log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        """Log-probability in nats `(..., c)` of every sub-pixel of `values` `(..., c)` uint8 given those before it."""
        logits = torch.stack([self._logits(params, values[..., :i]) for i in range(self.channels)], -2)
        return log_softmax(logits, -1).gather(-1, values.long()[..., None])[..., 0]

    def conditional(self, params: Tensor, given: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-masses `(..., 256)` of the sub-pixel that follows the `given` ones `(..., i)` uint8 of the same pixel.

        The logits are divided by `temperature`.
        """
        return log_softmax(self._logits(params, given) / temperature, -1)

    def num_noise(self, channels: int) -> int:
        """Uniform numbers that `draw` takes for a position."""
        return channels

    def _logits(self, params: Tensor, given: Tensor) -> Tensor:
        """Logits `(..., 256)` of the channel that follows the `given` ones `(..., i)`."""
        i, params = given.shape[-1], _at_least_float32(params)
        hidden, means, log_scales = params.split([self.channels * self.hidden, self.channels, self.channels], -1)
        state = hidden.unflatten(-1, (self.channels, -1))[..., i, :]
        mean = means[..., i, None]
        for j in range(i):
            state = state + self.given[i * (i - 1) // 2 + j].to(state.dtype)[given[..., j].long()]
            mean = mean + self.coupling[i, j] * _to_unit(given[..., j, None], mean.dtype)
        x = _to_unit(torch.arange(NUM_VALUES, device=params.device), mean.dtype)
        z = (x - mean) * torch.exp(-log_scales[..., i, None].clamp(min=MIN_LOG_SCALE))
        return (
            logsigmoid(z) + logsigmoid(-z) + silu(state) @ self.output[i].T.to(state.dtype)
        )  # the log-density of a logistic


Likelihood = Categorical | DiscretizedLogisticMixture | ChainedCategorical


def draw_in_turn(
    likelihood: Likelihood,
    params: Tensor,
    uniform: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    known: tuple[Tensor, Tensor] | None = None,
    bounds: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Values `(..., v)` uint8 for `uniform` `(..., v)`, one sub-pixel after the other, each by inverting its CDF.

    known: values and a mask, `(..., v)` each; where the mask is True the value stays, and those after it are drawn
    given it. bounds: the smallest and the largest value that may be drawn, `(..., v)` each.
    """
    values = torch.zeros_like(uniform, dtype=torch.uint8) if known is None else known[0].clone()
    for i in range(uniform.shape[-1]):
        given, level, ends = values[..., :i], uniform[..., i], bounds and (bounds[0][..., i], bounds[1][..., i])
        if ends is not None and top_k is None and top_p is None:
            drawn = likelihood.draw_within(params, given, level, *ends, temperature)
        else:
            log_mass = likelihood.conditional(params, given, temperature)
            drawn = invert_cdf(log_mass if ends is None else _bounded(log_mass, *ends), level, top_k, top_p)
        values[..., i] = drawn if known is None else torch.where(known[1][..., i], values[..., i], drawn)
    return values


def _bounded(log_mass: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """`log_mass` `(..., 256)` of the values between the bounds; the largest is 0, lest all exponentials vanish."""
    log_mass = log_mass.masked_fill(~within(lowest, highest), -torch.inf)
    return log_mass - log_mass.amax(-1, keepdim=True)


def within(lowest: Tensor, highest: Tensor) -> Tensor:
    """Which of the 256 values lie between bounds `(...)`, bool `(..., 256)`."""
    every = torch.arange(NUM_VALUES, device=lowest.device)
    return (every >= lowest[..., None]) & (every <= highest[..., None])


def invert_cdf(log_mass: Tensor, uniform: Tensor, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Values `(...)` uint8 drawn by inverting the CDF of `log_mass` `(..., 256)` at `uniform` `(...)` on [0, 1)."""
    mass = log_mass.double().exp()
    if top_k is not None and top_k < mass.shape[-1]:
        best = mass.topk(top_k, -1).indices
        mass = torch.zeros_like(mass).scatter(-1, best, mass.gather(-1, best))
    if top_p is not None and top_p < 1:
        ordered, place = mass.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered  # mass of the likelier values
        mass = mass.scatter(-1, place, ordered * (before < top_p * mass.sum(-1, keepdim=True)))
    cdf = mass.cumsum(-1)
    return (cdf <= _below(uniform[..., None], cdf[..., -1:])).sum(-1).to(torch.uint8)


def _below(uniform: Tensor, total: Tensor) -> Tensor:
    """`uniform` on [0, 1) times `total`, below it even where the product rounds."""
    return torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))


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
