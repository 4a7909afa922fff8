"""What a likelihood is, what all of them share, and how values are drawn; not the likelihoods themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

NUM_VALUES = 256


class Likelihood:
    """What a position's parameters say about its v values: one sub-pixel, or the c sub-pixels of a pixel.

    Two answers, and the rest follows: `log_prob` of given values in one pass, and `conditional`, the masses of one
    value given those before it. They agree. Axes: any leading ones, which parameters `(..., p)` and values `(..., v)`
    share. Values are uint8; parameters of any float type, used in float32 or better; log-probabilities are in nats.
    Temperature divides logits and multiplies scales; 1 is the model, less is sharper. A likelihood may have one built
    in, which all of its answers share.
    """

    sub_pixels: bool
    """Whether positions are sub-pixels; otherwise pixels."""
    has_means = False
    """Whether there are means among the parameters, which `mean_params` and `start` are about."""
    by_table = True
    """Whether values are drawn by tables of 256 masses, as those of a likelihood that does not say how."""
    table = 1
    """Numbers held for each of the 256 values while `conditional` makes their masses."""
    num_params: int
    """Parameters of one position, p."""
    num_noise: int
    """Uniform numbers that `draw` takes for one position, n: one for each value, then any others."""

    def init_head(self, weight: Tensor) -> None:
        """Set the matrix `(p, d)` that makes the parameters so that training starts from what is added to them."""
        nn.init.zeros_(weight)

    def log_prob(self, params: Tensor, values: Tensor) -> Tensor:
        """Log-probability `(..., v)` of each of the `values` given those before it in the same position."""
        raise NotImplementedError

    def conditional(self, params: Tensor, given: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-masses `(..., 256)` of the value that follows the `given` ones `(..., i)` of the same position."""
        raise NotImplementedError

    def draw(self, params: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
        """Values `(..., v)` of `uniform` `(..., n)`, float64 on [0, 1): as likely as `log_prob` says."""
        return draw_in_turn(self, params, uniform, temperature)

    def log_mass_within(self, params: Tensor, given: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        """Log of the mass `(...)` of the values from `lowest` to `highest` `(...)` after the `given` ones."""
        return self.conditional(params, given).masked_fill(~within(lowest, highest), -torch.inf).logsumexp(-1)

    def draw_within(
        self, params: Tensor, given: Tensor, uniform: Tensor, lowest: Tensor, highest: Tensor, temperature: float = 1.0
    ) -> Tensor:
        """A value `(...)` from `lowest` to `highest` after the `given` ones, for `uniform` `(...)` on [0, 1).

        There is one however little mass the bounds leave.
        """
        return invert_cdf(_bounded(self.conditional(params, given, temperature), lowest, highest), uniform)

    def mean_params(self, means: Tensor) -> Tensor:
        """Parameters `(..., p)` that are zero but for the `means` `(..., v)`, on [-1, 1]."""
        raise NotImplementedError

    def flat(self) -> Tensor:
        """Parameters `(p,)` by which all values are about as likely, and from which components learn to differ."""
        return torch.zeros(self.num_params)

    def start(self, means: Tensor, x: Tensor, coupling: Tensor) -> Tensor:
        """The parameters `(p,)` to add to `mean_params(means)` so that `x` is likely, both `(n, v)` on [-1, 1].

        coupling `(v, v)`: how far the mean of value i moves with value j < i. Weights that the likelihood
        itself has are set too.
        """
        raise NotImplementedError


class Guided(Likelihood):
    """What is drawn from with guidance g: log q(v) = log p(v) + g (log p(v | told) - log p(v)) + const, value by value.

    The 256 masses of q are renormalised given the values before, so q is a distribution over images: for g = 1 it is
    the model's p(image | told), for g = 0 its p(image), else neither. Parameters `(..., 2 p)` are those of both.
    Source: Ho and Salimans (2022), classifier-free guidance, in logs of masses instead of scores.
    """

    def __init__(self, likelihood: Likelihood, guidance: float) -> None:
        self.likelihood, self.guidance = likelihood, guidance

    def conditional(self, params: Tensor, given: Tensor, temperature: float = 1.0) -> Tensor:
        halves = params.chunk(2, -1)
        told, untold = (self.likelihood.conditional(half, given, temperature) for half in halves)
        return log_softmax(torch.lerp(untold, told, self.guidance), -1)


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
        if ends is not None and not leaves_out(top_k, top_p):
            drawn = likelihood.draw_within(params, given, level, *ends, temperature)
        else:
            log_mass = likelihood.conditional(params, given, temperature)
            drawn = invert_cdf(log_mass if ends is None else _bounded(log_mass, *ends), level, top_k, top_p)
        values[..., i] = drawn if known is None else torch.where(known[1][..., i], values[..., i], drawn)
    return values


def leaves_out(top_k: int | None, top_p: float | None) -> bool:
    """Whether these filters can leave out a value: not if they keep all 256, or all of the mass."""
    return (top_k is not None and top_k < NUM_VALUES) or (top_p is not None and top_p < 1)


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
    return (cdf <= below_total(uniform[..., None], cdf[..., -1:])).sum(-1).to(torch.uint8)


def below_total(uniform: Tensor, total: Tensor) -> Tensor:
    """`uniform` on [0, 1) times `total`, below it even where the product rounds."""
    return torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))


def within(lowest: Tensor, highest: Tensor) -> Tensor:
    """Which of the 256 values lie between bounds `(...)`, bool `(..., 256)`."""
    every = torch.arange(NUM_VALUES, device=lowest.device)
    return (every >= lowest[..., None]) & (every <= highest[..., None])


def _bounded(log_mass: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """`log_mass` `(..., 256)` of the values between the bounds; the largest is 0, lest all exponentials vanish."""
    log_mass = log_mass.masked_fill(~within(lowest, highest), -torch.inf)
    return log_mass - log_mass.amax(-1, keepdim=True)


def to_unit(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values 0..255 on [-1, 1]: v / 127.5 - 1."""
    return values.to(dtype) / 127.5 - 1


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 where it is that."""
    return x if x.dtype == torch.float64 else x.float()
