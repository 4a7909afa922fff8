"""Completion of partial images: which part is given, what is drawn around it and how, and the picture of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from image_transformer.conditions.base import repeated
from image_transformer.data.images import ImageData, check_images
from image_transformer.geometry.orientation import AS_IT_IS, Orientation, most_conditioned
from image_transformer.inference.sampling import generate
from image_transformer.model import ImageModel
from image_transformer.show import grids

Side = Literal["top", "bottom", "left", "right"]


def known_side(fraction: float, shape: tuple[int, int, int], side: Side = "top") -> NDArray[np.bool_]:
    """True in the `fraction` of the rows or columns at a side, bool (h, w).

    ValueError unless it lies in [0, 1], and for another side.

    >>> it.known_side(0.5, (3, 8, 8)).sum()
    np.int64(32)
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"the fraction of given rows or columns must lie in [0, 1], got {fraction}")
    if side not in get_args(Side):
        raise ValueError(f"side must be one of {', '.join(get_args(Side))}, got {side!r}")
    row, col = np.indices(shape[1:])
    along = {"top": row, "bottom": row[::-1], "left": col, "right": col[:, ::-1]}[side]
    return along < round((along.max() + 1) * fraction)


def read_mask(path: Path, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """True where the image at `path` is white, bool (h, w). ValueError if it is no image or of another size."""
    try:
        with Image.open(path) as image:
            mask = np.asarray(image.convert("L")) >= 128
    except (OSError, SyntaxError) as error:
        raise ValueError(f"cannot read the mask {path}: {error}") from None
    if mask.shape != shape[1:]:
        raise ValueError(
            f"the mask {path} is {mask.shape[0]}x{mask.shape[1]}, the model's images are {shape[1]}x{shape[2]}"
        )
    return mask


@dataclass(frozen=True, eq=False)
class Completions:
    """Several completions of each image, and how they were drawn.

    originals: uint8 (n, c, h, w). known: what was given of them, bool (h, w). images: uint8 (n, samples, c, h, w).
    orientation: how the images were turned before drawing (these are turned back). conditioned: the fraction of the
    given pixels that a drawn one was conditioned on, on average (`orientation.conditioned`).
    """

    originals: NDArray[np.uint8]
    known: NDArray[np.bool_]
    images: NDArray[np.uint8]
    orientation: Orientation
    conditioned: float

    @property
    def diversity(self) -> float | None:
        """Root mean variance (unbiased) between the completions of an image over its drawn sub-pixels, in levels of
        0..255; None of a single completion."""
        if self.images.shape[1] < 2:
            return None
        return math.sqrt(self.images[..., ~self.known].var(axis=1, ddof=1).mean())

    def summary(self) -> str:
        """One line: the orientation, how much of what is given was conditioned on, and the diversity."""
        percent = 100 if self.conditioned == 1 else min(round(100 * self.conditioned, 1), 99.9)  # 100 means all
        much = f"a drawn pixel was conditioned on {percent:g} % of the given ones, on average"
        differ = "" if self.diversity is None else f"; diversity {self.diversity:.1f} levels of 0..255"
        return f"drawn {self.orientation.name}: {much if self.known.any() else 'nothing was given'}{differ}"

    def picture(self) -> Image.Image:
        """A row for each image: what is given, the completions, the original."""
        shown = grids.masked(self.originals, self.known)[:, None]
        rows = np.concatenate([shown, self.images, self.originals[:, None]], axis=1)
        headers = ["given", *["completions"] * self.images.shape[1], "original"]
        return grids.labelled_rows([("", row) for row in rows], headers)


def complete(
    model: ImageModel,
    originals: NDArray[np.uint8] | Tensor,
    known: NDArray[np.bool_],
    *,
    samples: int = 6,
    orientations: Sequence[Orientation] = (AS_IT_IS,),
    **options: Any,
) -> Completions:
    """`samples` completions of each of `originals` (n, c, h, w), in the orientation in which most is conditioned on.

    known: True where pixels are given, bool (h, w); they stay as they are. A drawn pixel is conditioned on the given
    ones of earlier fronts and on no others. By `Raster` those are all in the rows above it and those to its left; by
    `Wavefront(1)` those up to one column further right in the row above, and up to two more for every row further up.
    Most of what is given below it has no influence. So the images are drawn in the one of `orientations` in which
    most of what is given is conditioned on (of equal ones, as they are), and turned back.
    orientations: those that the model was trained for, `DataConfig.trained_orientations` of its run.
    options: as in `generate`; what the model is told is told of each of `originals`, or of all. What follows from an
        image itself, as its box means do, is taken from the whole original.
    Raises ValueError for arguments of the wrong shape, if all is known, or if non-square images are to be transposed.

    >>> it.complete(model, images, it.known_side(0.5, (3, 8, 8)), samples=3).images.shape
    (2, 3, 3, 8, 8)
    """
    _check_known(model, known, orientations)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    originals = originals.cpu().numpy() if isinstance(originals, Tensor) else np.asarray(originals)
    given = torch.from_numpy(np.repeat(originals, samples, axis=0))
    check_images(given, model.config.shape)
    orientation, conditioned = most_conditioned(model.layout, known, orientations)
    names = [condition.name for condition in model.config.conditions]
    told = model.given(len(originals), {n: options.pop(n) for n in names if n in options}, follow=model.following)
    told |= model.of(ImageData("", "", originals), only=set(model.following) - told.keys())
    turned = {one.name: one.turned(told[one.name], orientation) for one in model.config.conditions}
    drawn = generate(
        model, len(given), known=orientation.apply(given),
        known_mask=torch.from_numpy(np.ascontiguousarray(orientation.apply(known))),
        **repeated(turned, samples), **options,
    )  # fmt: skip
    images = orientation.inverse.apply(drawn).numpy()
    shape = (len(originals), samples, *originals.shape[1:])
    return Completions(originals, known, images.reshape(shape), orientation, conditioned)


def _check_known(model: ImageModel, known: NDArray[np.bool_], orientations: Sequence[Orientation]) -> None:
    height, width = model.config.shape[1:]
    if known.dtype != np.bool_ or known.shape != (height, width):
        raise ValueError(f"known must be a bool array of shape {(height, width)}, got {known.dtype} {known.shape}")
    if known.all():
        raise ValueError("all pixels are given: nothing is left to draw")
    if height != width and any(orientation.transpose for orientation in orientations):
        raise ValueError(f"images of {height}x{width} pixels cannot be transposed: only square ones can")
