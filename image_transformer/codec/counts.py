"""The discretized mixture of logistics in integers: parameters on a grid -> how many of 2^24 counts each value holds.

What `likelihoods/dmol.py` computes, coarser, and the same on every machine: sums and products of integers, and single
multiplications, divisions and roundings in float64, which IEEE 754 fixes to the last bit. Exponentials come from
tables, made of exact decimals.
"""

from __future__ import annotations

from decimal import Context, Decimal
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_transformer.codec.rans import BITS, Ints

# Grids of the parameters: how many steps are one
LOGIT, MEAN, SCALE, COUPLING = 64, 64, 32, 4096  # a logit, a level of 255, a natural log-scale, an argument of tanh
FINEST, WIDEST = -8, 2  # log-scales, on values of [-1, 1]
TANH, WEIGHT, MASS, PLACE = 14, 16, 20, 12  # bits of a coupling, a weight, a mass, and of one scale of the logistic
STEEPEST = 4 * COUPLING  # tanh(4) is 0.9993
REACH = 16 << PLACE  # beyond 16 scales a logistic is taken to have ended
FAR = 16 * LOGIT  # and a weight below e^-16 of the largest to be the least
TOP = (1 << MASS) - (256 >> (BITS - MASS))  # the whole mass, so that 2^24 counts leave one for each of the 256 values

Floats = NDArray[np.float64]


class Mixture:
    """What `n` pixels hold: made of integer parameters `(n, p)`, in the order of `DiscretizedLogisticMixture.split`.

    Channels come in turn: `counts_below` of the next one's values, then `know` its value.
    """

    def __init__(self, params: Ints, components: int, channels: int) -> None:
        k, c = components, channels
        cuts = np.cumsum([k, c * k, c * k])
        logits, means, scales, coupling = np.split(params, cuts, axis=1)
        shape = (len(params), -1, k)
        tables = _tables()
        ahead = np.minimum(logits.max(1, keepdims=True) - logits, FAR)
        self.weights = _normalised(tables.exp[ahead].astype(np.int64))
        self.means, self.coupling = means.reshape(shape).astype(np.int64), coupling.reshape(shape)
        scales = scales.reshape(shape).clip(FINEST * SCALE, WIDEST * SCALE) - FINEST * SCALE
        self.inverse = tables.inverse[scales]
        self.values: list[Ints] = []
        self._turn()

    def __getitem__(self, rows: Any) -> Mixture:
        """Some of the pixels."""
        some = object.__new__(Mixture)
        for name, value in self.__dict__.items():
            some.__dict__[name] = [one[rows] for one in value] if name == "values" else value[rows]
        return some

    def counts_below(self, values: Ints) -> Ints:
        """Of 2^24 counts, those of the values below `values` `(n,)`, 0 to 256, of the next channel."""
        total = (self.weights * self._mass_below(values)).sum(1)
        found: Ints = (total >> (WEIGHT + MASS - BITS)) + values
        return found

    def find(self, counts: Ints) -> Ints:
        """The values `(n,)` that hold these counts."""
        values = np.zeros_like(counts)
        for bit in (128, 64, 32, 16, 8, 4, 2, 1):
            higher = values + bit
            values = np.where(self.counts_below(higher) <= counts, higher, values)
        return values

    def know(self, values: Ints) -> None:
        """The next channel has these values `(n,)`: they say which component made the pixel, and shift the means."""
        mass = (self._mass_below(values + 1) - self._mass_below(values) << 4) + 1
        self.weights = _normalised(self.weights * mass)
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

    def _mass_below(self, values: Ints) -> Ints:
        """The mass of each component below `values`, `(n, k)`."""
        away = (MEAN * values - MEAN // 2)[:, None] - self.mean
        place = np.rint(away * self.scale).clip(-REACH, REACH).astype(np.int64) + REACH
        ends = np.where(values == 0, 0, np.where(values == 256, TOP, -1))[:, None]
        return np.where(ends >= 0, ends, _tables().logistic[place])


def _normalised(weights: Ints) -> Ints:
    """Weights `(n, k)` of less than 2^41 to ones whose sum is 2^16: what rounding leaves over goes to the first."""
    shares = np.floor((weights << WEIGHT) / weights.sum(1, keepdims=True)).astype(np.int64)
    shares[:, 0] += (1 << WEIGHT) - shares.sum(1)
    return shares


class _Tables:
    """exp: e^-x of logits, 16 bits. tanh: 10 bits. inverse: from 1/64 levels to places of a logistic of each scale.
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
    exact = Context(prec=40)
    return exact.exp(exact.divide(Decimal(-i), Decimal(steps)))


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
    return _Tables()
