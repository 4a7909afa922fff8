"""Entropy coding: asymmetric numeral systems (Duda, 2013) over several lanes at once, in NumPy.

A symbol that holds the counts [start, start + freq) of 2^24 costs log2(2^24 / freq) bits, to a millionth. Lanes are
independent states that take turns; they share one stream of 32-bit words, each lane taking a word when its state runs
low, so that no lane has an end of its own. What is decoded first is encoded last.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BITS = 24
TOTAL = 1 << BITS
LOWEST = 1 << 31  # states lie in [2^31, 2^63)
WORD = 32

Ints = NDArray[np.int64]
Narrow = NDArray[np.int32]  # as many bits as counts need: an encoder keeps all symbols until it ends


class DecodeError(ValueError):
    """The data are not what was encoded."""


def encode(symbols: Sequence[tuple[Narrow, Narrow]], lanes: int, mark: int) -> bytes:
    """The bytes of symbols that are given in the order of decoding, as (starts, freqs) `(n,)` of those of one turn.

    The symbols of a turn go round the lanes. mark: 31 bits that the decoder finds again at its end, at no cost.
    """
    state = np.full(lanes, LOWEST, np.int64)
    state[0] += mark
    words: list[NDArray[np.uint32]] = []
    for starts, freqs in reversed(symbols):
        for first in range((len(starts) - 1) // lanes * lanes, -1, -lanes):
            start, freq = (x[first : first + lanes].astype(np.int64) for x in (starts, freqs))
            x = state[: len(start)]
            full = x >= freq << (WORD + 31 - BITS)
            words.append((x[full] & 0xFFFFFFFF).astype(np.uint32))
            x = np.where(full, x >> WORD, x)
            state[: len(start)] = (x // freq << BITS) + x % freq + start
    stream = np.concatenate([np.zeros(0, np.uint32), *reversed(words)])
    return state.astype("<u8").tobytes() + stream.astype("<u4").tobytes()


class Decoder:
    """Reads what `encode` wrote: `counts` says where each lane stands, `take` which symbols that was."""

    def __init__(self, data: bytes | memoryview, lanes: int) -> None:
        head = 8 * lanes
        if len(data) < head or (len(data) - head) % 4:
            raise DecodeError("the data are cut off")
        self.state = np.frombuffer(data[:head], "<u8").astype(np.int64)
        if (self.state < LOWEST).any():
            raise DecodeError("the data are damaged")
        self.words = np.frombuffer(data[head:], "<u4").astype(np.int64)
        self.read = 0

    def counts(self, lanes: int) -> Ints:
        """The count, 0 to 2^24 - 1, that the next symbol of each of the first lanes holds."""
        found: Ints = self.state[:lanes] & (TOTAL - 1)
        return found

    def take(self, starts: Ints, freqs: Ints) -> None:
        """The symbols were these: go on behind them."""
        x = self.state[: len(starts)]
        x = freqs * (x >> BITS) + (x & (TOTAL - 1)) - starts
        low = x < LOWEST
        many = int(low.sum())
        if self.read + many > len(self.words):
            raise DecodeError("the data are cut off")
        x[low] = x[low] << WORD | self.words[self.read : self.read + many]
        self.read += many
        self.state[: len(starts)] = x

    def finish(self, mark: int) -> None:
        """Raises `DecodeError` unless all has been read and the mark is found."""
        expected = np.full(len(self.state), LOWEST, np.int64)
        expected[0] += mark
        if self.read < len(self.words) or not np.array_equal(self.state, expected):
            raise DecodeError("the data are damaged")
