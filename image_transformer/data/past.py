"""What came before each image of a clip. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

START = "start"  # the action before the first frame of a clip, where there are actions
NONE = -1  # every value of a frame that is not there


@dataclass(frozen=True)
class Past:
    """The clips that some images are frames of; earlier frames are looked up, not copied.

    frames: all frames of all clips, (m, c, h, w). start: the number of the first frame of each one's clip, (m,).
    rows: which of the frames the images are, (n,).
    """

    frames: NDArray[np.uint8]
    start: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __getitem__(self, index: NDArray[np.int64]) -> Past:
        return replace(self, rows=self.rows[index])

    def before(self, count: int) -> NDArray[np.int16]:
        """The `count` frames before each image, the last one last, `(n, count, c, h, w)`; -1 before a clip begins."""
        at = self.rows[:, None] - np.arange(count, 0, -1)
        there = at >= self.start[self.rows][:, None]
        frames = self.frames[np.where(there, at, 0)].astype(np.int16)
        return np.where(there[:, :, None, None, None], frames, np.int16(NONE))

    @property
    def place(self) -> NDArray[np.int64]:
        """The number of each image in its clip, from 0, `(n,)`."""
        return self.rows - self.start[self.rows]
