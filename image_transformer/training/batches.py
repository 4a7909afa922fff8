"""Which training images are seen when, and how they are turned: a function of the seed and the number of the view."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from image_transformer.config.data import DataConfig
from image_transformer.data.images import ImageData, Unchanged
from image_transformer.data.stream import Stream

PURPOSES = ("weights", "order", "noise", "flips", "words")


class Batches:
    """The views of a training: the images in a new order in every epoch, each in one of its orientations."""

    def __init__(self, data: ImageData | Stream, config: DataConfig, seed: int) -> None:
        self.data, self.orientations, self.seed = data, config.trained_orientations, seed
        self._unchanged = Unchanged(data.images)
        self._orders: dict[int, NDArray[np.int64]] = {}  # the order of the images in the newest epochs

    def take(self, first: int, count: int) -> ImageData:
        """The views `first` to `first + count` of the run."""
        return self.take_these(np.arange(first, first + count))

    def take_these(self, number: NDArray[np.int64]) -> ImageData:
        """The views of the run with these numbers, (n,). DataError if the file that they come from has changed."""
        self._unchanged.check()
        epochs, places = np.divmod(number, len(self.data))
        where = [self._order(int(epoch))[place] for epoch, place in zip(epochs, places, strict=True)]
        index = np.array(where, dtype=np.int64)
        found = self.data.rows(index)
        images = np.ascontiguousarray(found.images)
        sources = None if found.sources is None else np.ascontiguousarray(found.sources)
        if len(self.orientations) > 1:
            for i, n in enumerate(number.tolist()):
                drawn = random_seed(self.seed, "flips", n) % len(self.orientations)
                images[i] = self.orientations[drawn].apply(images[i])
                if sources is not None:
                    sources[i] = self.orientations[drawn].apply(sources[i])
        return replace(found, images=images, sources=sources)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            rng = np.random.default_rng(random_seed(self.seed, "order", epoch))
            self._orders[epoch] = self.data.order(rng)
        return self._orders[epoch]


def random_seed(seed: int, what: str, number: int = 0) -> int:
    """A seed for one purpose (weights, order, noise, flips, words), as a pure function of its arguments."""
    sequence = np.random.SeedSequence([seed, PURPOSES.index(what), number])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)
