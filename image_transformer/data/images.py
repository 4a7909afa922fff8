"""What a data set gives: uint8 images and what is known of them. Importing this must not import torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]  # (n, c, h, w)
Captions = tuple[tuple[str, ...], ...]  # several wordings of what each image shows

SOME = 20180215  # seed of the images that stand for a whole data set
LARGE = 2**30  # bytes of a data set that are read for its fingerprint
ROWS = 1024  # images that are read at once for it
START = "start"  # the action before the first frame of a clip, where there are actions
NONE = -1  # every value of a frame that is not there


class DataError(ValueError):
    """A data set that is not there or does not fit: one line that names what was expected and what came."""


class NoSplitError(DataError):
    """A data set that has no such split."""


def first_line(error: BaseException) -> str:
    """An error's first line, or its name, for the one line of a DataError."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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


@dataclass(frozen=True)
class ImageData:
    """uint8 images (n, c, h, w) of one split, memory-mapped where they came from disk, with labels if there are any."""

    name: str  # what the user asked for
    split: str
    images: NDArray[np.uint8]  # (n, c, h, w)
    labels: NDArray[np.int64] | None = None  # (n,)
    classes: tuple[str, ...] = ()  # class names, or ()
    skipped: int = 0  # unreadable files left out (only with skip_bad)
    captions: Captions | None = None  # (n,)
    sources: Images | None = None  # of edits: what each image was made of, (n, c, h, w)
    past: Past | None = None  # of clips: the frames before each image

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, index: NDArray[np.int64]) -> ImageData:
        """Some of the images, in memory, with what is known of them."""
        labels = None if self.labels is None else self.labels[index]
        captions = None if self.captions is None else tuple(self.captions[i] for i in index.tolist())
        sources = None if self.sources is None else self.sources[index]
        past = None if self.past is None else self.past[index]
        return replace(self, images=self.images[index], labels=labels, captions=captions, sources=sources, past=past)

    def order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """The numbers of all images, shuffled."""
        return rng.permutation(len(self))

    @property
    def whole_name(self) -> str:
        """Such as "cifar10, test split"."""
        return self.name if self.split == "all" else f"{self.name}, {self.split} split"

    def digest(self) -> str:
        """Of the images and what is known of them: of all, or of about 1 GiB, evenly spread, where there are more."""
        step = max(1, self.images.nbytes // LARGE)
        digest = hashlib.sha256(f"{self.images.shape} {step}".encode())
        for images in (self.images, *([] if self.sources is None else [self.sources])):
            for first in range(0, len(self), step * ROWS):
                digest.update(images[first : first + step * ROWS : step].tobytes())
        if self.labels is not None:
            digest.update(self.labels.astype("<i8").tobytes())
        if self.captions is not None:
            digest.update(json.dumps(self.captions).encode())
        if self.past is not None:
            digest.update(self.past.start.astype("<i8").tobytes())
        return digest.hexdigest()

    def some(self, count: int | None) -> ImageData:
        """`count` of the images, or all, that stand for the whole: a fixed draw, since files are often sorted by class.

        Sorted by their place; `some(10)` is a part of `some(20)`.
        """
        if count is None or count >= len(self):
            return self
        drawn = np.argsort(np.random.PCG64(SOME).random_raw(len(self)), kind="stable")  # a stream that never changes
        return self.rows(np.sort(drawn[:count]))


class Unchanged:
    """Watches the file that an array is mapped from."""

    def __init__(self, images: Images | None) -> None:
        self.file = getattr(images, "filename", None)
        self._before = self._state()

    def check(self) -> None:
        """DataError if the file was written to. One that is gone, or was replaced, is still there for the mapping."""
        now = self._state()
        if self._before and now and now[0] == self._before[0] and now != self._before:
            raise DataError(f"{self.file} has changed while the training was reading it: put it back, and --resume")

    def _state(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self.file)  # type: ignore[arg-type]
        except (TypeError, OSError):
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns


def class_names(data: ImageData) -> tuple[str, ...]:
    """The names of the classes of labelled images; their numbers where they have none. DataError without labels."""
    if data.labels is None:
        raise DataError(
            f"{data.name}: the images have no labels, which a class-conditional model needs: expected a folder for "
            "each class, a column label, or an array of labels"
        )
    names = data.classes or tuple(str(i) for i in range(int(data.labels.max()) + 1))
    if data.labels.min() < 0 or data.labels.max() >= len(names):
        wrong = data.labels[(data.labels < 0) | (data.labels >= len(names))][0]
        raise DataError(f"{data.name}: expected labels from 0 to {len(names) - 1}, got {wrong}")
    return names


def class_labels(data: ImageData, classes: Sequence[str]) -> NDArray[np.int64]:
    """The class of each image, `(n,)`, as its number in `classes`. DataError for images of other classes."""
    names, number = class_names(data), {name: i for i, name in enumerate(classes)}
    unknown = [name for name in names if name not in number]
    if unknown or data.labels is None:
        raise DataError(f"{data.name}: its class {unknown[0]!r} is not one of the model's: {', '.join(classes)}")
    return np.array([number[name] for name in names])[data.labels]


def check_images(images: Any, shape: tuple[int, int, int], name: str = "images", count: int | None = None) -> None:
    """ValueError, saying what was expected and what came, unless `images` is a uint8 tensor of (b, *shape).

    count: how many there must be, if that is settled.
    """
    kind = str(getattr(images, "dtype", ""))
    if kind != "torch.uint8":
        came = kind if kind.startswith("torch.") else type(images).__name__
        raise ValueError(f"{name} must be a torch.uint8 tensor of values 0..255, got {came}")
    if images.dim() != 4 or tuple(images.shape[1:]) != shape:
        expected = ", ".join(map(str, shape))
        raise ValueError(f"{name} must have shape (b, {expected}) for this model, got {tuple(images.shape)}")
    if count not in (None, len(images)):
        raise ValueError(f"{name} must hold one image for each of {count}, got {len(images)}")


def check_arrays(*arrays: Images) -> None:
    """ValueError unless all are uint8 arrays (n, c, h, w) of equal shape, with 1 or 3 channels and not empty."""
    for images in arrays:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
            raise ValueError(f"expected uint8 images (n, 1 or 3, h, w), got {images.dtype} {images.shape}")
    for images in arrays[1:]:
        if images.shape != arrays[0].shape:
            raise ValueError(f"expected images of equal shape, got {arrays[0].shape} and {images.shape}")
