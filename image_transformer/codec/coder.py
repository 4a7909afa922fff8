"""Images of one size <-> bytes, by a coding network: exact inverses on every machine."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from image_transformer.codec.counts import Mixture
from image_transformer.codec.fronts import Slab, Walk, num_fronts
from image_transformer.codec.integers import IntegerNetwork, exactly
from image_transformer.codec.rans import BITS, Decoder, Ints, Narrow, encode

Images = NDArray[np.uint8]  # (n, c, h, w)
Progress = Callable[[int, int], None]  # (done, in all): fronts or pixels
AT_ONCE = 8_192  # pixels that one pass of an encoder works on: more do not make it faster
PIXELS_PER_LANE = 2_048  # a lane costs six bytes, and saves time by being one of many


def lanes_for(pixels: int) -> int:
    return min(max(1, pixels // PIXELS_PER_LANE), 256)


def encode_images(
    network: IntegerNetwork, images: Images, lanes: int, mark: int, progress: Progress | None = None
) -> bytes:
    """The bytes of `images` with 1 or 3 channels; a grey one is coded as a coloured one whose channels are equal.

    mark: 31 bits that the decoder checks.
    """
    symbols: list[tuple[Narrow, Narrow]] = []
    for slab, held in _holds(network, images, progress):
        ends = np.cumsum(slab.inside.sum(1) * len(images))[:-1]
        each = [[np.split(x.astype(np.int32), ends) for x in one] for one in held]
        for front in range(slab.count):
            symbols += [(starts[front], freqs[front]) for starts, freqs in each]
    return encode(symbols, lanes, mark)


def image_bits(network: IntegerNetwork, images: Images) -> NDArray[np.float64]:
    """The bits `(n,)` that each image costs, as `encode_images` would write it."""
    bits = np.zeros(len(images))
    for _, held in _holds(network, images, None):
        for _, freqs in held:
            bits += (BITS - np.log2(freqs)).reshape(-1, len(images)).sum(0)
    return bits


def _holds(
    network: IntegerNetwork, images: Images, progress: Progress | None
) -> Iterator[tuple[Slab, list[tuple[Ints, Ints]]]]:
    """Some fronts at a time, and for each channel which counts the values of their pixels hold: (starts, freqs)."""
    count, channels, height, width = images.shape
    values = torch.from_numpy(images).flatten(2).permute(2, 0, 1)
    fronts = num_fronts(height, width)
    per_front = count * min(height, (width + 1) // 2)
    worth = max(width // 4, 16 // count)  # of narrow images a step costs more than its pixels
    size = max(1, min(AT_ONCE // per_front, worth))
    walk = Walk(network, count, height, width)
    walk.values[:-1] = 2 * values.float() - 255
    for first in range(0, fronts, size):
        with exactly():
            slab = walk.slab(first, min(size, fronts - first))
            mixture = _mixture(network, walk, slab)
            own = values[torch.from_numpy(walk.pixels(slab))].flatten(0, 1).numpy().astype(np.int64)
        held = []
        for channel in range(channels):
            held.append(mixture.hold(own[:, channel]))
            if channel < channels - 1:
                mixture.know(own[:, channel])
        yield slab, held
        if progress is not None:
            progress(first + slab.count, fronts)


def decode_images(
    network: IntegerNetwork,
    data: bytes | memoryview,
    shape: tuple[int, int, int, int],
    lanes: int,
    progress: Progress | None = None,
) -> tuple[Images, Decoder]:
    """The images `shape` (n, c, h, w) that were encoded, and the decoder: its `finish` says whether they are right."""
    count, channels, height, width = shape
    decoder = Decoder(data, lanes)
    found = np.empty((height * width, count, channels), np.uint8)
    fronts = num_fronts(height, width)
    with exactly():
        walk = Walk(network, count, height, width)
        for first in range(fronts):
            slab = walk.slab(first, 1)
            mixture = _mixture(network, walk, slab)
            places = walk.pixels(slab)
            own = np.empty((len(places) * count, channels), np.int64)
            for channel in range(channels):
                for start in range(0, len(own), lanes):
                    rows = slice(start, min(start + lanes, len(own)))
                    own[rows, channel], starts, freqs = mixture.find(decoder.counts(rows.stop - start), rows)
                    decoder.take(starts, freqs)
                if channel < channels - 1:
                    mixture.know(own[:, channel])
            pixels = own.reshape(len(places), count, channels)
            found[places] = pixels
            walk.values[torch.from_numpy(places)] = torch.from_numpy(2 * pixels - 255).float()
            if progress is not None:
                progress(first + 1, fronts)
    return found.transpose(1, 2, 0).reshape(shape), decoder


def checksum(*parts: bytes | memoryview) -> int:
    """31 bits."""
    found = 0
    for part in parts:
        found = zlib.crc32(part, found)
    return found & 0x7FFFFFFF


def _mixture(network: IntegerNetwork, walk: Walk, slab: Slab) -> Mixture:
    params = walk(slab).flatten(0, 1).numpy()
    whole: Ints = params.astype(np.int64)
    return Mixture(whole, network.components, network.channels)
