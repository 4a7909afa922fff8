"""The discretized mixture of logistics in integers: parameters on a grid -> how many of 2^24 counts each value holds.

What `likelihoods/dmol.py` computes, coarser, and the same on every machine: sums and products of integers, and single
multiplications, divisions and roundings in float64, which IEEE 754 fixes to the last bit. Exponentials come from
tables, made of exact decimals.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from image_transformer.codec.rans import BITS, TOTAL, Ints

# Grids of the parameters: how many steps are one
LOGIT, MEAN, SCALE, COUPLING = 64, 64, 32, 4096  # a logit, a level of 255, a natural log-scale, an argument of tanh
FINEST, WIDEST = -8, 2  # log-scales, on values of [-1, 1]
TANH, WEIGHT, MASS, PLACE = 14, 16, 20, 12  # bits of a coupling, a weight, a mass, and of one scale of the logistic
STEEPEST = 4 * COUPLING  # tanh(4) is 0.9993
REACH = 16 << PLACE  # beyond 16 scales a logistic is taken to have ended
FAR = 16 * LOGIT  # and a weight below e^-16 of the largest to be the least
TOP = (1 << MASS) - (256 >> (BITS - MASS))  # the whole mass, so that 2^24 counts leave one for each of the 256 values

FEW = 32  # pixels for which a search is faster in two large steps than in four small ones

EXACT = Context(prec=40, rounding=ROUND_HALF_EVEN, Emin=-999999, Emax=999999, traps=[])

Floats = NDArray[np.float64]
EDGES: Floats = np.concatenate([[-np.inf], MEAN * np.arange(1.0, 256) - MEAN // 2, [np.inf]])  # below each value


class Mixture:
    """What `n` pixels hold: made of integer parameters `(n, p)`, in the order of `DiscretizedLogisticMixture.split`.

    Channels come in turn: `hold` or `find` the values of the next one, then `know` them.
    """

    def __init__(self, params: Ints, components: int, channels: int) -> None:
        k, c = components, channels
        cuts = np.cumsum([k, c * k, c * k])
        logits, means, scales, coupling = np.split(params, cuts, axis=1)
        shape = (len(params), c, k)
        tables = _tables()
        ahead = np.minimum(logits.max(1, keepdims=True) - logits, FAR)
        self.weights = _normalised(tables.exp[ahead].astype(np.int64))
        self.means, self.coupling = means.reshape(shape), coupling.reshape(len(params), c * (c - 1) // 2, k)
        scales = scales.reshape(shape).clip(FINEST * SCALE, WIDEST * SCALE) - FINEST * SCALE
        self.inverse = tables.inverse[scales]
        self.values: list[Ints] = []
        self._turn()

    def counts_below(self, values: Ints, rows: slice = slice(None)) -> Ints:
        """Of 2^24 counts, those of the next channel's values below `values` `(n, e)`, 0 to 256, in some pixels."""
        total = (self.weights[rows, None] * self._mass_below(values, rows)).sum(-1)
        found: Ints = (total >> (WEIGHT + MASS - BITS)) + values
        return found

    def hold(self, values: Ints) -> tuple[Ints, Ints]:
        """Where the counts of these values `(n,)` start, and how many they are."""
        starts, ends = self.counts_below(values[:, None] + np.arange(2)).T
        return starts, ends - starts

    def find(self, counts: Ints, rows: slice) -> tuple[Ints, Ints, Ints]:
        """The values that hold these counts in some of the pixels, and what `hold` says of them."""
        each, values, step = np.arange(len(counts)), np.zeros_like(counts), 256
        starts, ends = values, np.full_like(counts, TOTAL)
        ways = 16 if len(counts) < FEW else 4
        while step > 1:
            step //= ways
            below = self.counts_below(values[:, None] + step * np.arange(1, ways), rows)
            which = (below <= counts[:, None]).sum(1)
            edges = np.concatenate([starts[:, None], below, ends[:, None]], 1)
            values, starts, ends = values + step * which, edges[each, which], edges[each, which + 1]
        return values, starts, ends - starts

    def know(self, values: Ints) -> None:
        """The next channel has these values `(n,)`: they say which component made the pixel, and shift the means."""
        mass = self._mass_below(values[:, None] + np.arange(2))
        self.weights = _normalised(self.weights * (((mass[:, 1] - mass[:, 0]) << 4) + 1))
        self.values.append(values)
        if len(self.values) < self.means.shape[1]:
            self._turn()

    def _turn(self) -> None:
        i = len(self.values)
        self.mean, self.scale = self.means[:, i], self.inverse[:, i]
        first = i * (i - 1) // 2
        for j, known in enumerate(self.values):
            index = self.coupling[:, first + j].clip(-STEEPEST, STEEPEST) + STEEPEST
            # a mean is the half of 2 v - 255 in steps of 1 / 64 level
            shift = _tables().tanh[index] * (2 * known[:, None] - 255) * (MEAN // 2)
            self.mean = self.mean + (shift >> TANH)

    def _mass_below(self, values: Ints, rows: slice = slice(None)) -> Ints:
        """The mass of each component below `values` `(n, e)`, `(n, e, k)`."""
        place = EDGES[values][..., None] - self.mean[rows, None]
        place = np.rint(place * self.scale[rows, None])
        place = np.minimum(np.maximum(place, -REACH), REACH).astype(np.int64)
        found: Ints = _tables().logistic[place + REACH]
        return found


def _normalised(weights: Ints) -> Ints:
    """Weights `(n, k)` of less than 2^41 to ones whose sum is 2^16: what rounding leaves over goes to the first."""
    shares = np.floor((weights << WEIGHT) / weights.sum(1, keepdims=True)).astype(np.int64)
    shares[:, 0] += (1 << WEIGHT) - shares.sum(1)
    return shares


class _Tables:
    """exp: e^-x of logits, 16 bits. tanh: 14 bits. inverse: from 1/64 levels to places of a logistic of each scale.
    logistic: its mass below each place, 20 bits.
    """

    def __init__(self) -> None:
        self.exp = np.array([max(1, round(65536 * _exp(i, LOGIT))) for i in range(FAR + 1)], np.int64)
        per_level = Decimal(2 << PLACE) / (255 * MEAN)
        scales = range(FINEST * SCALE, WIDEST * SCALE + 1)
        self.inverse = np.array([float(per_level * _exp(i, SCALE)) for i in scales])
        falling = _exps(2 * STEEPEST, COUPLING)[::2]
        self.tanh = _odd(np.rint((1 << TANH) * (1 - falling) / (1 + falling)).astype(np.int64))
        upper = np.rint(TOP / (1 + _exps(REACH, 1 << PLACE))).astype(np.int64)
        self.logistic = _odd(upper - TOP // 2) + TOP // 2


def _exp(i: int, steps: int) -> Decimal:
    """e^(-i / steps) to 40 digits."""
    return (Decimal(-i) / Decimal(steps)).exp()


def _exps(last: int, steps: int) -> Floats:
    """e^(-i / steps) for i from 0 to `last`: products of two exact ones, and so rounded alike everywhere."""
    fine = np.array([float(_exp(i, steps)) for i in range(256)])
    coarse = np.array([float(_exp(256 * i, steps)) for i in range(last // 256 + 1)])
    return (coarse[:, None] * fine).reshape(-1)[: last + 1]


def _odd(values: Ints) -> Ints:
    """An odd function from its values at 0, 1, ...: those at ..., -1, 0, 1, ..."""
    return np.concatenate([-values[:0:-1], values])


@lru_cache
def _tables() -> _Tables:
    with localcontext(EXACT):  # whatever the caller's is
        return _Tables()
